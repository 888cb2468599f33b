"""Functions of logits, features and labels that the classifiers share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32, without_autocast
from .upsampled_cross_entropy import upsampled_cross_entropy


def segmentation_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_label: int = 255, align_corners: bool = False
) -> Tensor:
    """Mean cross-entropy over the labelled pixels, at the resolution of the labels.

    Args:
        logits: (B, K, h, w) float; interpolated bilinearly to (H, W).
        labels: (B, H, W), any integer dtype: 0 to K-1, or ``ignore_label``.
        ignore_label: pixels with this label take no part.
        align_corners: as in ``torch.nn.functional.interpolate``.

    Returns:
        A scalar, at least float32; 0 (with a gradient of 0) where every pixel is ignored.

    Raises:
        IndexError or RuntimeError: a label is none of these (on a GPU a device-side assertion).
    """
    labels = labels.long()
    valid = labels != ignore_label
    if logits.shape[-2:] == labels.shape[-2:]:
        logits = at_least_float32(logits)
        total = F.cross_entropy(logits, labels, ignore_index=ignore_label, reduction="sum")
    else:
        total = upsampled_cross_entropy(logits, labels.where(valid, 0), valid, align_corners)
    return total / valid.sum().clamp(min=1)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) of any integer dtype to (B, h, w) int64 by nearest neighbour."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels.long()
    # interpolate() takes floating point only; float32 holds every integer below 2**24.
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()


def feature_lengths(features: Tensor) -> Tensor:
    """Euclidean length of each pixel's features, at least 1e-12.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, 1, h, w), at least float32.
    """
    # Channels are taken in blocks that the caches hold: on the CPU ten times faster than a norm
    # over a dimension that is not the last, and no copy of half-precision features in float32.
    blocks = features.split(64, dim=1)
    squares = sum(at_least_float32(block).square().sum(dim=1, keepdim=True) for block in blocks)
    return squares.clamp(min=1e-24).sqrt()


def class_membership(labels: Tensor, num_classes: int) -> Tensor:
    """One row a class: 1.0 where a pixel has it. Ignored pixels are 0 in every row.

    Args:
        labels: (B, h, w) integer.
        num_classes: K; any other value counts as ignored.

    Returns:
        (B, K, h * w) float32.
    """
    classes = torch.arange(num_classes, device=labels.device)
    return (labels.flatten(1)[:, None] == classes[:, None]).float()


def weighted_class_means(features: Tensor, weights: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Mean feature of each class, per image, pixels weighted by their share in the class.

    Args:
        features: (B, C, h, w).
        weights: (B, K, h * w), non-negative.
        epsilon: keeps a class without any weight at 0 instead of NaN.

    Returns:
        (B, K, C), at least float32: ``sum_x w_k(x) F(x) / (sum_x w_k(x) + epsilon)``.
    """
    # Sums over all pixels of an image overflow in half precision.
    with without_autocast(features.device):
        features = at_least_float32(features)
        weights = weights.to(features.dtype)
        sums = weights @ features.flatten(2).transpose(1, 2)
        return sums / (weights.sum(dim=2, keepdim=True) + epsilon)
