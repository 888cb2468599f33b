"""The most frequent confusions of classes in a confusion matrix."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """Pixels of the class ``ground_truth`` that were predicted as the class ``predicted``.

    Attributes:
        ground_truth, predicted: class indices.
        pixels: number of pixels.
        share: fraction of the pixels of the class ``ground_truth``, in (0, 1].
    """

    ground_truth: int
    predicted: int
    pixels: int
    share: float


def counted(matrix: np.ndarray) -> np.ndarray:
    """(K, K) int64 with rows true and columns predicted, without ignored pixels.

    Args:
        matrix: (K + 1, K + 1), rows predicted, columns true, the last ones ignored.
    """
    return matrix[:-1, :-1].T


def shares_of_ground_truth(counts: np.ndarray) -> np.ndarray:
    """(K, K) float64: each row of ``counts`` divided by its sum; zeros for absent classes."""
    total = counts.sum(axis=1, keepdims=True)
    return counts / np.maximum(total, 1)


def top_confusions(counts: np.ndarray, number: int, *, by: str) -> list[Confusion]:
    """The largest confusions of two different classes, the largest first.

    Args:
        counts: the result of :func:`counted`.
        number: the largest number of confusions.
        by: "pixels", or "share" (of the true class).
    """
    errors = np.array(counts)
    np.fill_diagonal(errors, 0)
    shares = shares_of_ground_truth(counts)
    np.fill_diagonal(shares, 0)
    weight = {"pixels": errors, "share": shares}[by]
    order = np.argsort(-weight, axis=None, kind="stable")[:number]
    pairs = zip(*np.unravel_index(order, errors.shape))
    return [
        Confusion(int(t), int(p), int(errors[t, p]), float(shares[t, p]))
        for t, p in pairs
        if errors[t, p]
    ]


def most_confused(counts: np.ndarray, number: int) -> np.ndarray:
    """Indices, in ascending order, of the classes with the most wrong pixels.

    A wrong pixel counts for its true class and for the predicted one. Classes that neither occur
    nor are predicted are never among them.
    """
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    occurs = counts.sum(axis=0) + counts.sum(axis=1) > 0
    order = np.argsort(np.where(occurs, -wrong, 1), kind="stable")
    return np.sort(order[: min(number, int(occurs.sum()))])
