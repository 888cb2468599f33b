"""Whether one model is better than another: paired differences with intervals. Plain NumPy.

Two sources of luck are told apart. The test images are a sample: they are resampled with
replacement (bootstrap), the same ones for both models and all seeds. The seeds of the trainings are
a sample too, but of three or five, of which a bootstrap covers far too little (three seeds have ten
different resamples). So the seeds' part of a resample is drawn from Student's t distribution with
the standard deviation of the seeds' differences in that resample of the images: with images that
never change this is the paired t interval, with seeds that never differ the bootstrap percentiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .image_counts import CORRECT, PREDICTED, TRUE

MEANS = ("mIoU", "mACC", "pACC")
# Weights and counts of one block of resamples stay below about this many bytes.
_BLOCK_BYTES = 1 << 27


@dataclass(frozen=True)
class Difference:
    """How much better than the baseline, in points (per cent minus per cent).

    Attributes:
        mean: over the seeds, on the images as they are.
        low, high: the limits of the 95 % interval.
        per_seed: the difference of each pair of runs.
    """

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    @property
    def share_of_seeds_that_gain(self) -> float:
        """From 0 to 1."""
        return float(np.mean(np.array(self.per_seed) > 0))


def metrics_of_counts(counts: np.ndarray, absent_classes: str = "left_out") -> np.ndarray:
    """The metrics of summed counts, in per cent, as ``confusion.segmentation_metrics`` has them.

    Args:
        counts: (..., 3, K): correct, true and predicted pixels of each class.
        absent_classes: as of ``confusion.segmentation_metrics``.

    Returns:
        (..., 3 + K): mIoU, mACC, pACC, then the IoU of each class. Means leave out classes whose
        value is NaN.
    """
    counts = np.asarray(counts, dtype=np.float64)
    correct, true, predicted = (counts[..., row, :] for row in (CORRECT, TRUE, PREDICTED))
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = correct / true
        iou = correct / (true + predicted - correct)
        if absent_classes == "left_out":
            iou = np.where(true > 0, iou, np.nan)
        overall = correct.sum(-1) / true.sum(-1)
        means = [np.nansum(values, -1) / (~np.isnan(values)).sum(-1) for values in (iou, accuracy)]
        means.append(overall)
    return 100 * np.concatenate([np.stack(means, -1), iou], axis=-1)


def paired_differences(
    baseline: np.ndarray,
    other: np.ndarray,
    *,
    num_resamples: int = 4000,
    confidence: float = 0.95,
    seed: int = 0,
    absent_classes: str = "left_out",
) -> list[Difference]:
    """Differences of all metrics, runs paired by seed and by image.

    Args:
        baseline: (S, N, 3, K) counts of S runs on N images; seed and image are the same as in
            ``other`` at each place.
        other: the same of the other model.
        num_resamples: of the bootstrap.
        confidence: of the interval, 0 to 1.
        seed: of the resampling: the same numbers give the same interval.
        absent_classes: as of ``confusion.segmentation_metrics``.

    Returns:
        3 + K differences in the order of :func:`metrics_of_counts`. With one seed the interval is
        about the images alone.

    Raises:
        ValueError: the shapes differ, or there is no run or no image.
    """
    if baseline.shape != other.shape or baseline.ndim != 4 or 0 in baseline.shape[:2]:
        raise ValueError(
            f"counts of shapes {baseline.shape} and {other.shape}, expected twice (S, N, 3, K)"
        )
    generator = np.random.default_rng(seed)
    metrics = partial(metrics_of_counts, absent_classes=absent_classes)
    per_seed = metrics(other.sum(1, dtype=np.int64)) - metrics(baseline.sum(1, dtype=np.int64))
    resampled = _resampled_differences(baseline, other, num_resamples, generator, metrics)
    draws = resampled.mean(0)
    num_seeds = len(per_seed)
    if num_seeds > 1:
        luck = generator.standard_t(num_seeds - 1, (num_resamples, 1))
        draws = draws + luck * resampled.std(0, ddof=1) / np.sqrt(num_seeds)
    tail = 50 * (1 - confidence)
    mean = per_seed.mean(0)
    # No difference of per cents lies beyond, however few the seeds are.
    low, high = np.clip(_percentiles(draws, [tail, 100 - tail]), -100, 100)
    return [
        Difference(float(mean[i]), float(low[i]), float(high[i]), tuple(per_seed[:, i].tolist()))
        for i in range(len(mean))
    ]


def _resampled_differences(
    baseline: np.ndarray,
    other: np.ndarray,
    num_resamples: int,
    generator: np.random.Generator,
    metrics: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """(S, R, 3 + K): the differences of each pair of runs on each resample of the images."""
    num_seeds, num_images, _, num_classes = baseline.shape
    differences = np.empty((num_seeds, num_resamples, 3 + num_classes))
    block = max(_BLOCK_BYTES // (8 * (num_images + 12 * num_classes)), 1)
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        # How often each image is drawn. The sums are exact: float64 holds integers up to 2**53.
        weights = generator.multinomial(num_images, [1 / num_images] * num_images, rows)
        weights = weights.astype(np.float64)
        for index in range(num_seeds):
            sums = [
                (weights @ counts.reshape(num_images, -1).astype(np.float64)).reshape(
                    rows, 3, num_classes
                )
                for counts in (baseline[index], other[index])
            ]
            differences[index, start : start + rows] = metrics(sums[1]) - metrics(sums[0])
    return differences


def _percentiles(draws: np.ndarray, percentages: list[float]) -> np.ndarray:
    """Percentiles of each column; resamples without a class do not count for it."""
    known = ~np.isnan(draws).all(0)
    limits = np.full((2, draws.shape[1]), np.nan)
    limits[:, known] = np.nanpercentile(draws[:, known], percentages, axis=0)
    return limits


def sentence(difference: Difference, metric: str = "mIoU") -> str:
    """A difference in plain words: "gains 1.3 mIoU [0.4, 2.2]" or "no difference shown"."""
    interval = f"[{difference.low:.1f}, {difference.high:.1f}]"
    if len(difference.per_seed) == 1:
        return (
            f"{difference.mean:+.1f} {metric} {interval} with one seed: this cannot tell a better "
            "classifier from a lucky seed"
        )
    if difference.low > 0:
        return f"gains {difference.mean:.1f} {metric} {interval}"
    if difference.high < 0:
        return f"loses {-difference.mean:.1f} {metric} {interval}"
    return f"no difference shown: {difference.mean:+.1f} {metric} {interval}"


def metric_names(class_names: Sequence[str]) -> list[str]:
    """The names of what :func:`metrics_of_counts` returns."""
    return [*MEANS, *(f"IoU-{name}" for name in class_names)]
