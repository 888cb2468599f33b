"""Losses, and functions that losses and classifiers share. Plain PyTorch."""

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
