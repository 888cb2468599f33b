"""The images with the largest gains and losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.image_counts import ImageCounts
from ..evaluation.paired import metrics_of_counts
from .results import Study

NUM_IMAGES = 3


@dataclass(frozen=True)
class ImagePair:
    """The scores of an image, of a classifier and of the baseline.

    Attributes:
        file_name: file name in the per-image counts.
        difference: difference of the image's mIoU in points, mean over the paired seeds.
        baseline, other: the image's mIoU in per cent in the first pair of runs.
    """

    file_name: str
    difference: float
    baseline: float
    other: float


def image_scores(counts: ImageCounts) -> np.ndarray:
    """mIoU of each image, (N,) in per cent; NaN where nothing is labelled."""
    return metrics_of_counts(counts.counts)[:, 0]


def extreme_images(study: Study, label: str, dataset: str) -> list[ImagePair]:
    """Those that gain most, then those that lose most, each image once."""
    pairs = study.pairs(label)
    scores = np.array([[image_scores(run.counts[dataset]) for run in pair] for pair in pairs])
    difference = (scores[:, 1] - scores[:, 0]).mean(0)
    order = np.argsort(difference, kind="stable").tolist()
    lose = _apart([i for i in order if difference[i] < 0], len(difference))
    gain = _apart([i for i in reversed(order) if difference[i] > 0], len(difference))
    names = pairs[0][0].counts[dataset].file_names
    return [
        ImagePair(names[i], float(difference[i]), float(scores[0, 0, i]), float(scores[0, 1, i]))
        for i in [*gain, *lose]
    ]


def _apart(ordered: Sequence[int], total: int) -> list[int]:
    """The first few that are no neighbours in the dataset: frames of a video are similar."""
    chosen: list[int] = []
    for index in ordered:
        if all(abs(index - other) >= max(total // 20, 1) for other in chosen):
            chosen.append(index)
        if len(chosen) == NUM_IMAGES:
            break
    return chosen
