"""Masks of an image, where they come from (files, a watershed that needs no weights, Segment Anything), and the patch
hierarchy that they make together."""

from splatseg.masks.mask_set import MaskSet
from splatseg.masks.source import MaskSource, mask_source

__all__ = ["MaskSet", "MaskSource", "mask_source"]
