"""What splatseg uses of MobileSAM, with the real package's names: segment-anything's own code around another encoder.

Like the real package it imports timm in the encoder's module and torchvision where segment-anything does.
"""

from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from mobile_sam.tiny_vit import build_sam_vit_t

sam_model_registry = {"vit_t": build_sam_vit_t}

__all__ = ["SamAutomaticMaskGenerator", "SamPredictor", "sam_model_registry"]
