"""Metrics of anomaly scores: AUROC, AP and FPR at 95 % TPR.

Scores are counted, not kept: a float32 score goes to the bin of its sign, its exponent and the
first 11 bits of its mantissa, 2^20 bins in all. So scores are known to one part in 2048, whatever
their range is, 16 MiB hold any number of pixels, and processes add up their counts. The metrics are
exact for scores rounded like that: those in one bin are equal scores.

The metrics are those of Fishyscapes (Blum et al., IJCV 2021, arXiv 1904.03215, section 4); plain
numpy.
"""

from dataclasses import dataclass, field

import numpy as np

# Bits of a float32 that a bin does not tell apart, of the 23 of its mantissa.
_DROPPED_BITS = 12
NUM_BINS = 1 << (32 - _DROPPED_BITS)
RECALL = 0.95


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bins of scores: int64 of the same shape, 0 to NUM_BINS - 1, ascending as the scores.

    Args:
        scores: float32, infinity allowed.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("An anomaly score is NaN, so that pixels cannot be put in order.")
    # -0.0 is 0.0. The bits of positive numbers ascend as integers, those of negative ones descend.
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> _DROPPED_BITS).astype(np.int64)


@dataclass
class ScoreCounts:
    """How many known and how many unknown pixels have a score, by the bins of ``score_bins``.

    Attributes:
        known, unknown: (NUM_BINS,) int64.
    """

    known: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    unknown: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))

    def add(self, scores: np.ndarray, is_unknown: np.ndarray) -> None:
        """Count pixels.

        Args:
            scores: (N,) float32, the larger, the stranger.
            is_unknown: (N,) bool.

        Raises:
            ValueError: a score is NaN.
        """
        bins = score_bins(scores)
        for counts, chosen in ((self.known, ~is_unknown), (self.unknown, is_unknown)):
            values, numbers = np.unique(bins[chosen], return_counts=True)
            counts[values] += numbers

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        return ScoreCounts(self.known + other.known, self.unknown + other.unknown)

    def metrics(self) -> dict[str, float]:
        """See :func:`anomaly_metrics`."""
        return anomaly_metrics(self.known, self.unknown)


def anomaly_metrics(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """AUROC, AP and FPR95 from the numbers of pixels with each score.

    - AUROC: the probability that an unknown pixel has a larger score than a known one; equal
      scores count half.
    - AP: the sum over thresholds of the precision times the gain in recall, without interpolation.
    - FPR95: the share of known pixels above the largest threshold that finds 95 % of the unknown.

    Args:
        known: (B,) integers: known pixels with the lowest score, ..., with the highest.
        unknown: (B,) integers: unknown ones.

    Returns:
        In per cent; NaN where there is no known or no unknown pixel.
    """
    used = (known > 0) | (unknown > 0)
    known, unknown = (counts[used][::-1].astype(np.float64) for counts in (known, unknown))
    false, true = known.cumsum(), unknown.cumsum()
    if not len(false) or not false[-1] or not true[-1]:
        return dict.fromkeys(("AUROC", "AP", "FPR95"), np.nan)
    recall, false_rate = true / true[-1], false / false[-1]
    # Pairs that are in order: with all known pixels below, and half of those beside.
    ordered = unknown * (false[-1] - false + known / 2)
    precision = true / (true + false)
    first = np.searchsorted(recall, RECALL)
    return {
        "AUROC": 100 * ordered.sum() / (true[-1] * false[-1]),
        "AP": 100 * (precision * unknown).sum() / true[-1],
        "FPR95": 100 * false_rate[first],
    }
