"""Pictures for people: contact sheets, feature PCA, overlays of masks and their hierarchies."""

from splatseg.draw.layout import Cell, contact_sheet, stacked
from splatseg.draw.mask_preview import hierarchy_preview, mask_overlay
from splatseg.draw.sheets import PcaBasis, run_sheet

__all__ = ["Cell", "PcaBasis", "contact_sheet", "hierarchy_preview", "mask_overlay", "run_sheet", "stacked"]
