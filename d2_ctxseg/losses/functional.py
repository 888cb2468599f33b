"""Functions of logits, features and labels that the classifiers share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32, without_autocast
from .upsampled_cross_entropy import upsampled_cross_entropy, upsampled_pixel_losses

# The label of ignored pixels in calls of torch: with a negative ignore_index and label smoothing,
# torch counts ignored pixels.
_IGNORED = 2**31 - 1


def segmentation_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_label: int = 255,
    align_corners: bool = False,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the labelled pixels, at the resolution of the labels.

    With class weights w it is the weighted mean ``sum_x w_y(x) l(x) / sum_x w_y(x)`` over the
    pixels x, as in ``torch.nn.functional.cross_entropy``.

    Args:
        logits: (B, K, h, w) float; interpolated bilinearly to (H, W).
        labels: (B, H, W), any integer dtype: 0 to K-1, or ``ignore_label``.
        ignore_label: pixels with this label are ignored.
        align_corners: see ``torch.nn.functional.interpolate``.
        class_weights: (K,) float, at least 0; None: equal weights.
        label_smoothing: share of the target that is spread evenly over the classes, 0 to below 1.

    Returns:
        A scalar, at least float32; 0 (with a gradient of 0) where every pixel is ignored or has
        weight 0.

    Raises:
        IndexError or RuntimeError: a label is out of range (on a GPU a device-side assertion).
    """
    labels = labels.long()
    valid = labels != ignore_label
    if class_weights is not None:
        class_weights = class_weights.to(at_least_float32(logits).dtype)
    if logits.shape[-2:] == labels.shape[-2:]:
        known = labels.where(valid, _IGNORED)
        total = _cross_entropy_sum(
            logits, known, class_weights=class_weights, label_smoothing=label_smoothing
        )
    else:
        total = upsampled_cross_entropy(
            logits,
            labels.where(valid, 0),
            valid,
            align_corners,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
    if class_weights is None:
        return total / valid.sum().clamp(min=1)
    weight = (class_weights[labels.where(valid, 0)] * valid).sum()
    return total * (weight > 0) / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def segmentation_pixel_losses(
    logits: Tensor, labels: Tensor, ignore_label: int = 255, align_corners: bool = False
) -> Tensor:
    """The cross-entropy ``-log p(true class)`` of each pixel, without a gradient.

    Args:
        logits, labels, ignore_label, align_corners: see ``segmentation_cross_entropy``.

    Returns:
        (B, H, W), at least float32; -1 where a pixel is ignored.
    """
    labels = labels.long()
    valid = labels != ignore_label
    labels = labels.where(valid, 0)
    if logits.shape[-2:] == labels.shape[-2:]:
        losses = F.cross_entropy(at_least_float32(logits.detach()), labels, reduction="none")
    else:
        losses = upsampled_pixel_losses(logits, labels, align_corners)
    return losses.where(valid, -1)


def _cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    return F.cross_entropy(
        at_least_float32(logits),
        labels,
        class_weights,
        ignore_index=_IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, H, W) of any integer dtype to (B, h, w) int64 by nearest neighbour."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels.long()
    # interpolate() takes floating point only; float32 holds every integer below 2**24.
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the values (N,) where ``valid`` (N,) is True; 0 where it is nowhere True."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors (N, C) scaled to Euclidean length 1; the same as ``F.normalize(vectors, dim=1)``.

    A product with the reciprocal of the length has a cheaper backward pass than a division.
    """
    return vectors * (1 / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=1e-12))


def feature_lengths(features: Tensor) -> Tensor:
    """Euclidean length of each pixel's features, at least 1e-12.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, 1, h, w), at least float32.
    """
    # In blocks of channels, which fit the caches: on a CPU ten times faster than a norm over a
    # dimension that is not the last, and without a float32 copy of half-precision features.
    blocks = features.split(64, dim=1)
    squares = [at_least_float32(block).square().sum(dim=1, keepdim=True) for block in blocks]
    return sum(squares[1:], squares[0]).clamp(min=1e-24).sqrt()


def class_membership(labels: Tensor, num_classes: int) -> Tensor:
    """One-hot labels: one row per class, 1.0 at its pixels. Ignored pixels are 0 in every row.

    Args:
        labels: (B, h, w) integer.
        num_classes: K; any other value counts as ignored.

    Returns:
        (B, K, h * w) float32.
    """
    classes = torch.arange(num_classes, device=labels.device)
    return (labels.flatten(1)[:, None] == classes[:, None]).float()


def valid_mask(sizes: Tensor, height: int, width: int) -> Tensor:
    """The mask of the image in feature maps with padding at the bottom and on the right.

    Args:
        sizes: (B, 2) integer, height and width of the valid part of each feature map.
        height: height h of the feature maps.
        width: width w of the feature maps.

    Returns:
        (B, 1, h, w) boolean.
    """
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def zero_outside(maps: Tensor, sizes: Tensor | None) -> Tensor:
    """Maps (B, C, h, w) with zeros outside their valid parts; unchanged where ``sizes`` is None."""
    return maps if sizes is None else maps * valid_mask(sizes, *maps.shape[-2:])


def weighted_class_means(
    features: Tensor, weights: Tensor, epsilon: float = 1e-12, *, of_batch: bool = False
) -> Tensor:
    """Mean feature of each class, weighted over the pixels.

    Args:
        features: (B, C, h, w).
        weights: (B, K, h * w), non-negative; 0 leaves a pixel out, for example padding.
        epsilon: makes the mean of a class whose weights are all 0 equal to 0 instead of NaN.
        of_batch: average over the whole batch instead of over each image.

    Returns:
        (B, K, C), of the batch (1, K, C), at least float32:
        ``sum_x w_k(x) F(x) / (sum_x w_k(x) + epsilon)``.
    """
    # Sums over all pixels of an image overflow in half precision.
    with without_autocast(features.device):
        features = at_least_float32(features)
        weights = weights.to(features.dtype)
        # In this order of the factors the gradient has the layout of the features, so that it is
        # added to other gradients without a copy.
        sums = (features.flatten(2) @ weights.transpose(1, 2)).transpose(1, 2)
        totals = weights.sum(dim=2, keepdim=True)
        if of_batch:
            sums, totals = sums.sum(dim=0, keepdim=True), totals.sum(dim=0, keepdim=True)
        return sums / (totals + epsilon)
