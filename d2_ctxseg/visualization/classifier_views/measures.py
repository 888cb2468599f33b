"""Numbers about predictions: how sure they are, and how two of them differ."""

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from ...losses.precision import at_least_float32


class Change(IntEnum):
    """What became of a pixel's label, seen against the truth."""

    NONE = 0
    CORRECTED = 1
    """Wrong before, right now."""
    SPOILED = 2
    """Right before, wrong now."""
    STILL_WRONG = 3
    """Wrong before, and now in another way."""
    NOT_RATED = 4
    """Another label, but the truth is not known."""


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
    before: np.ndarray, after: np.ndarray, truth: np.ndarray | None = None
) -> np.ndarray:
    """How each pixel's label has changed.

    Args:
        before, after: classes, integers (H, W).
        truth: integers (H, W), negative where ignored; None if not known.

    Returns:
        Values of ``Change``, uint8 (H, W).
    """
    changed = before != after
    if truth is None:
        return np.where(changed, Change.NOT_RATED, Change.NONE).astype(np.uint8)
    kinds = [
        (truth < 0, Change.NOT_RATED),
        (after == truth, Change.CORRECTED),
        (before == truth, Change.SPOILED),
    ]
    conditions = [~changed, *(condition for condition, _ in kinds)]
    values = [Change.NONE, *(kind for _, kind in kinds)]
    return np.select(conditions, values, Change.STILL_WRONG).astype(np.uint8)


def accuracy(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pixels that are not ignored (negative) whose class is right; NaN without any."""
    rated = truth >= 0
    return float((prediction == truth)[rated].mean()) if rated.any() else float("nan")
