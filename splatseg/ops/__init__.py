"""Public ops; each has a plain PyTorch twin in ``splatseg.ops.reference``, its specification."""

from splatseg.ops.adam import AdamConfig, SparseFeatureAdam
from splatseg.ops.blend import blend
from splatseg.ops.contributions import Contributions
from splatseg.ops.loss import hierarchical_contrastive_loss, hierarchical_contrastive_loss_and_grad
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.photometric import photometric_loss, psnr, ssim
from splatseg.ops.trace import trace

__all__ = [
    "AdamConfig",
    "Contributions",
    "LossConfig",
    "SparseFeatureAdam",
    "blend",
    "hierarchical_contrastive_loss",
    "hierarchical_contrastive_loss_and_grad",
    "photometric_loss",
    "psnr",
    "ssim",
    "trace",
]
