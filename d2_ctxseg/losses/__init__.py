"""Losses, and what they share with the classifiers. Plain PyTorch, nothing else of the package."""

from .distillation import distillation_loss
from .functional import segmentation_cross_entropy
from .mask_losses import weighted_mask_losses
from .pixel_loss import PixelLoss

__all__ = [
    "PixelLoss",
    "distillation_loss",
    "segmentation_cross_entropy",
    "weighted_mask_losses",
]
