"""Measures of predictions: how certain they are, and how two of them differ."""

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from ...losses.precision import at_least_float32


class Change(IntEnum):
    """How the label of a pixel changed, compared with the ground truth."""

    NONE = 0
    CORRECTED = 1
    """Wrong before, correct after."""
    BROKEN = 2
    """Correct before, wrong after."""
    STILL_WRONG = 3
    """Wrong before, and another wrong class after."""
    UNLABELLED = 4
    """Another class, but the ground truth is not known."""


def entropy(logits: Tensor) -> Tensor:
    """``-sum_k p_k log p_k`` of ``p = softmax(logits)``, in nats: (K, H, W) to (H, W)."""
    return torch.special.entr(at_least_float32(logits).softmax(dim=0)).sum(dim=0)


def confidence(logits: Tensor) -> Tensor:
    """The probability of the most probable class: (K, H, W) to (H, W)."""
    return at_least_float32(logits).softmax(dim=0).amax(dim=0)


def label_map(logits: Tensor) -> np.ndarray:
    """The most probable class: (K, H, W) to an int64 array (H, W)."""
    return logits.argmax(dim=0).cpu().numpy()


def label_changes(
    before: np.ndarray, after: np.ndarray, ground_truth: np.ndarray | None = None
) -> np.ndarray:
    """How each pixel's label has changed.

    Args:
        before, after: classes, integers (H, W).
        ground_truth: integers (H, W), negative where ignored; None if not known.

    Returns:
        Values of ``Change``, uint8 (H, W).
    """
    changed = before != after
    if ground_truth is None:
        return np.where(changed, Change.UNLABELLED, Change.NONE).astype(np.uint8)
    kinds = [
        (ground_truth < 0, Change.UNLABELLED),
        (after == ground_truth, Change.CORRECTED),
        (before == ground_truth, Change.BROKEN),
    ]
    conditions = [~changed, *(condition for condition, _ in kinds)]
    values = [Change.NONE, *(kind for _, kind in kinds)]
    return np.select(conditions, values, Change.STILL_WRONG).astype(np.uint8)


def accuracy(prediction: np.ndarray, ground_truth: np.ndarray) -> float:
    """Share of the labelled pixels (not negative) whose class is correct; NaN without any."""
    labelled = ground_truth >= 0
    return float((prediction == ground_truth)[labelled].mean()) if labelled.any() else math.nan
