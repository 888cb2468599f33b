"""Paired differences of two models with confidence intervals. Plain NumPy.

There are two sources of variance. The test images are a sample: they are resampled with replacement
(bootstrap), the same ones for both models and all seeds. The training seeds are a sample as well,
but of three to five, for which a bootstrap interval is far too narrow (three seeds have ten
different resamples). Their contribution to a resample is therefore drawn from Student's t
distribution, scaled with the standard error of the seeds' differences in that resample of the
images. Without variance over the images this is the paired t interval, without variance over the
seeds the bootstrap percentiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .image_counts import CORRECT, PREDICTED, TRUE

MEANS = ("mIoU", "mACC", "pACC")
# Approximate size in bytes of the weights and counts of one block of resamples.
_BLOCK_BYTES = 1 << 27


@dataclass(frozen=True)
class Difference:
    """The difference to the baseline in percentage points.

    Attributes:
        mean: the mean over the seeds, without resampling.
        low, high: the limits of the 95 % interval.
        per_seed: the difference of each pair of runs.
    """

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    @property
    def share_of_seeds_that_gain(self) -> float:
        """The share of the seeds with a positive difference, 0 to 1."""
        return float(np.mean(np.array(self.per_seed) > 0))


def metrics_of_counts(counts: np.ndarray, absent_classes: str = "left_out") -> np.ndarray:
    """The metrics of ``confusion.segmentation_metrics`` from summed counts, in per cent.

    Args:
        counts: (..., 3, K): correct, true and predicted pixels of each class.
        absent_classes: see ``confusion.segmentation_metrics``.

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
    """Differences of all metrics, paired by seed and by image.

    Args:
        baseline: (S, N, 3, K) counts of S runs on N images, in the order of the seeds and images of
            ``other``.
        other: the counts of the other model, of the same shape.
        num_resamples: number of resamples of the bootstrap.
        confidence: confidence level of the interval, 0 to 1.
        seed: seed of the resampling; the same seed gives the same interval.
        absent_classes: see ``confusion.segmentation_metrics``.

    Returns:
        3 + K differences in the order of :func:`metrics_of_counts`. With one seed the interval
        covers the variance over the images alone.

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
    # A difference of percentages is at most 100, however few seeds there are.
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
    """Percentiles of each column, without the resamples in which its class is absent."""
    known = ~np.isnan(draws).all(0)
    limits = np.full((2, draws.shape[1]), np.nan)
    limits[:, known] = np.nanpercentile(draws[:, known], percentages, axis=0)
    return limits


def sentence(difference: Difference, metric: str = "mIoU") -> str:
    """A difference in words: "gains 1.3 mIoU [0.4, 2.2]" or "no difference shown"."""
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
    """The names of the metrics of :func:`metrics_of_counts`, in its order."""
    return [*MEANS, *(f"IoU-{name}" for name in class_names)]
