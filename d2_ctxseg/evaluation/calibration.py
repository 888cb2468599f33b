"""Metrics of confidences: calibration, and risk against coverage.

Plain NumPy on counts. Confidences of pixels are counted in fixed bins, image by image; all measures
follow from the counts, so memory depends on neither images nor pixels.

Expected calibration error (ECE) and reliability diagram: Guo et al., On Calibration of Modern
Neural Networks, ICML 2017, section 2. Risk-coverage curve: Geifman and El-Yaniv, Selective
Classification for Deep Neural Networks, NeurIPS 2017; the area under it (AURC): Geifman et al.,
Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.
"""

from dataclasses import dataclass

import numpy as np

#: Bins of equal width of the reliability diagram and of the ECE.
NUM_BINS = 15
# Most pixels of a trained model are surer than 0.99. So that they can be told from each other, bins
# become narrower towards 1; the borders of the NUM_BINS wide bins are among theirs.
_PARTS = 20
_EDGES = np.union1d(
    np.arange(_PARTS * NUM_BINS + 1) / (_PARTS * NUM_BINS), 1 - np.geomspace(1e-7, 1e-2, 300)
)
#: Number of the bins that are counted in.
NUM_COUNTED_BINS = len(_EDGES) - 1
_WIDE_BIN = np.floor(_EDGES[:-1] * NUM_BINS + 1e-9).astype(int)
# The rows of the counts.
PIXELS, CORRECT, CONFIDENCE = range(3)


def no_counts() -> np.ndarray:
    """Counts of no pixel, (3, NUM_COUNTED_BINS) float64, as :func:`confidence_counts` gives."""
    return np.zeros((3, NUM_COUNTED_BINS))


def confidence_counts(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Pixels, correct pixels and the sum of confidences in each bin; counts can be added.

    Args:
        confidence: confidences in [0, 1], of any shape.
        correct: bool, of the same shape.

    Returns:
        (3, NUM_COUNTED_BINS) float64, whose whole numbers are exact.

    Raises:
        ValueError: the shapes differ, or a confidence is not in [0, 1].
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct)
    if confidence.shape != correct.shape:
        raise ValueError(
            f"confidence {confidence.shape} and correct {correct.shape} must have one shape"
        )
    confidence, correct = confidence.ravel(), correct.ravel()
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is not in [0, 1]")
    # A bin has its lower border, the last one also 1.
    bins = np.searchsorted(_EDGES[1:-1], confidence, side="right")
    weights = (None, correct, confidence)
    return np.stack([np.bincount(bins, w, NUM_COUNTED_BINS).astype(np.float64) for w in weights])


@dataclass(frozen=True)
class Reliability:
    """The reliability diagram: NUM_BINS bins of equal width, the lowest confidence first.

    Attributes:
        share: fraction of the pixels in each bin, with sum 1.
        confidence: mean in each bin, NaN in an empty one.
        accuracy: share of the bin's pixels that are correct, NaN in an empty one.
    """

    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(counts: np.ndarray) -> Reliability:
    """The reliability diagram of counted confidences; the counts must not be empty."""
    wide = np.stack([np.bincount(_WIDE_BIN, row, NUM_BINS) for row in counts])
    pixels = wide[PIXELS]
    with np.errstate(invalid="ignore"):
        return Reliability(pixels / pixels.sum(), wide[CONFIDENCE] / pixels, wide[CORRECT] / pixels)


def expected_calibration_error(counts: np.ndarray) -> float:
    """ECE in [0, 1]: the mean over all pixels of |accuracy - mean confidence| of their bin.

    NaN where nothing was counted.
    """
    if not counts[PIXELS].any():
        return np.nan
    diagram = reliability(counts)
    gaps = np.abs(diagram.accuracy - diagram.confidence)
    return float(np.sum(diagram.share * np.nan_to_num(gaps)))


def risk_coverage(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of errors among the surest pixels, for growing shares of the pixels.

    Pixels of one bin count as equally sure, so that between two points the number of errors, not
    the risk, grows evenly; see :func:`risk_at`.

    Returns:
        Coverage, rising from above 0 to 1, and the risk at each, both in [0, 1]; empty where
        nothing was counted.
    """
    pixels, errors = _surest_first(counts)
    return pixels / max(pixels[-1:].sum(), 1), errors / pixels


def risk_at(counts: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """The risk where only these shares of the pixels, the surest, are kept.

    Args:
        counts: counts of :func:`confidence_counts`, not empty.
        coverage: shares in (0, 1], of any shape.
    """
    pixels, errors = _surest_first(counts)
    kept = np.asarray(coverage) * pixels[-1]
    return np.interp(kept, np.append(0, pixels), np.append(0, errors)) / kept


def area_under_risk_coverage(counts: np.ndarray) -> float:
    """AURC in [0, 1], the mean of the risk over all coverages; the lower, the better.

    It is 0 for a prediction without errors, and the share of errors where confidence says nothing
    about them. NaN where nothing was counted.
    """
    pixels, errors = _surest_first(counts)
    if not len(pixels):
        return np.nan
    # Within a bin the errors are e0 + r (n - n0): the integral of (e0 + r (n - n0)) / n over n.
    start, errors_before = np.append(0, pixels[:-1]), np.append(0, errors[:-1])
    rate = (errors - errors_before) / (pixels - start)
    offset = errors_before - rate * start  # 0 in the first bin, whose logarithm is infinite
    logarithm = np.log(pixels / np.where(start > 0, start, pixels))
    return float(np.sum(rate * (pixels - start) + offset * logarithm) / pixels[-1])


def calibration_metrics(counts: np.ndarray) -> dict[str, float]:
    """ "ECE" and "AURC", in per cent."""
    return {
        "ECE": 100 * expected_calibration_error(counts),
        "AURC": 100 * area_under_risk_coverage(counts),
    }


def _surest_first(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels and errors there are down to each bin that is not empty."""
    pixels, correct = counts[[PIXELS, CORRECT], ::-1]
    filled = pixels > 0
    return np.cumsum(pixels[filled]), np.cumsum((pixels - correct)[filled])
