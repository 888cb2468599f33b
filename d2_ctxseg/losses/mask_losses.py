"""Losses of class masks: one binary mask per class, compared where the class is present.

All of them take the same four tensors:

- ``mask_logits`` (B, K, h, w) float of any precision, before the sigmoid;
- ``targets`` (B, K, h, w) float, 1 where a pixel has the class and 0 elsewhere;
- ``valid`` (B, 1, h, w) float, 1 where a pixel is labelled; the others are ignored;
- ``present`` (B, K) float, 1 where the image contains the class.

They are means over the present (image, class) pairs, 0 with a gradient of 0 where there is none.
The ECENet paper (Liu et al., ICCV 2023, arXiv 2308.12894) names a mask loss and a dice loss without
formulas, and its training code was not released. The focal and the dice loss here are those of
SegViT (Zhang et al., NeurIPS 2022, arXiv 2210.05844), restricted to the labelled pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice
from .functional import class_membership, resize_labels
from .precision import at_least_float32


class MaskTargets(NamedTuple):
    """Ground truth of the mask losses; the module docstring states the shapes."""

    targets: Tensor
    valid: Tensor
    present: Tensor


def mask_targets(
    labels: Tensor, num_classes: int, size: Sequence[int], ignore_label: int = 255
) -> MaskTargets:
    """The true mask of every class at the resolution of the predicted masks.

    The labels are resized by nearest neighbour, which is cheaper than interpolating K masks to the
    labels' size. A class that is lost in this counts as absent.

    Args:
        labels: (B, H, W), any integer dtype.
        num_classes: K; labels outside 0 to K-1 count as ignored.
        size: (h, w) of the masks.
        ignore_label: pixels with this label are ignored.

    Returns:
        ``targets`` (B, K, h, w), ``valid`` (B, 1, h, w) and ``present`` (B, K), float32.
    """
    labels = resize_labels(labels, size)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    membership = class_membership(torch.where(valid, labels, -1), num_classes)
    return MaskTargets(
        membership.unflatten(2, labels.shape[-2:]), valid[:, None].float(), membership.amax(dim=2)
    )


def sigmoid_focal_mask_loss(
    mask_logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    present: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017): mean over labelled pixels, then present pairs.

    Args:
        mask_logits: (B, K, h, w) float.
        targets: (B, K, h, w) float, 0 or 1.
        valid: (B, 1, h, w) float, 0 or 1.
        present: (B, K) float, 0 or 1.
        alpha: weight of the pixels of the class; the others have ``1 - alpha``.
        gamma: focusing parameter, the exponent of the probability of the wrong answer, at least 1.

    Returns:
        A scalar, at least 0, float32 or more precise.
    """
    toward_wrong = _toward_wrong(mask_logits, targets)
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    pixel_loss = weight * toward_wrong.sigmoid() ** gamma * F.softplus(toward_wrong)
    return _mean_over_present(_mean_over_valid(pixel_loss, valid), present)


def binary_cross_entropy_mask_loss(
    mask_logits: Tensor, targets: Tensor, valid: Tensor, present: Tensor
) -> Tensor:
    """Binary cross-entropy: mean over the labelled pixels, then over the present pairs.

    Arguments and result as in ``sigmoid_focal_mask_loss``.
    """
    pixel_loss = F.softplus(_toward_wrong(mask_logits, targets))
    return _mean_over_present(_mean_over_valid(pixel_loss, valid), present)


def dice_mask_loss(
    mask_logits: Tensor, targets: Tensor, valid: Tensor, present: Tensor, smooth: float = 1.0
) -> Tensor:
    """Dice loss (Milletari et al., 3DV 2016), mean over the present pairs.

    Per pair ``1 - (2 sum pt + smooth) / (sum p + sum t + smooth)`` over the labelled pixels.

    Args:
        mask_logits: (B, K, h, w) float.
        targets: (B, K, h, w) float, 0 or 1.
        valid: (B, 1, h, w) float, 0 or 1.
        present: (B, K) float, 0 or 1.
        smooth: keeps the ratio defined for empty masks.

    Returns:
        A scalar between 0 and 1, float32 or more precise.
    """
    probability = at_least_float32(mask_logits).sigmoid() * valid
    overlap = (probability * targets).sum(dim=(2, 3))
    total = probability.sum(dim=(2, 3)) + (targets * valid).sum(dim=(2, 3))
    return _mean_over_present(1 - (2 * overlap + smooth) / (total + smooth), present)


MASK_LOSSES = {"focal": sigmoid_focal_mask_loss, "bce": binary_cross_entropy_mask_loss}


def weighted_mask_losses(
    mask_logits: Tensor,
    labels: Tensor,
    *,
    ignore_label: int = 255,
    mask_loss: str = "focal",
    weight_mask: float = 5.0,
    weight_dice: float = 2.0,
) -> dict[str, Tensor]:
    """The binary mask loss and the dice loss of masks against labels.

    Args:
        mask_logits: (B, K, h, w) float.
        labels: (B, H, W), any integer dtype; resized to (h, w), see ``mask_targets``.
        ignore_label: pixels with this label are ignored.
        mask_loss: ``"focal"`` or ``"bce"``.
        weight_mask: factor on ``loss_mask``; 0 leaves it out.
        weight_dice: factor on ``loss_dice``; 0 leaves it out.

    Returns:
        ``loss_mask`` and ``loss_dice``, weights applied.

    Raises:
        ValueError: ``mask_loss`` is unknown.
    """
    check_choice("mask_loss", mask_loss, tuple(MASK_LOSSES))
    functions = {
        "loss_mask": (weight_mask, MASK_LOSSES[mask_loss]),
        "loss_dice": (weight_dice, dice_mask_loss),
    }
    if not (weight_mask or weight_dice):
        return {}
    targets = mask_targets(labels, mask_logits.shape[1], mask_logits.shape[-2:], ignore_label)
    return {
        name: weight * function(mask_logits, *targets)
        for name, (weight, function) in functions.items()
        if weight
    }


def _toward_wrong(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Logits of the wrong answer: the sign is flipped on pixels of the class.

    Their ``softplus`` is the binary cross-entropy, their ``sigmoid`` the probability of the wrong
    answer.
    """
    return at_least_float32(mask_logits) * (1 - 2 * targets)


def _mean_over_valid(pixel_loss: Tensor, valid: Tensor) -> Tensor:
    """(B, K, h, w) and (B, 1, h, w) to (B, K)."""
    return (pixel_loss * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3)).clamp(min=1)


def _mean_over_present(pair_loss: Tensor, present: Tensor) -> Tensor:
    """(B, K) and (B, K) to a scalar."""
    return (pair_loss * present).sum() / present.sum().clamp(min=1)
