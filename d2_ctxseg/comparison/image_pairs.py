"""The images that gain and lose most, with the predictions of both classifiers."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectron2.data import DatasetCatalog

from ..data.images import read_image
from ..deployment.predictor import SemSegPredictor
from ..engine import setup_config
from ..evaluation.image_counts import ImageCounts
from ..evaluation.paired import metrics_of_counts
from ..report.classes import classes_of
from ..report.pictures import jpeg_address, label_address
from ..utils.errors import UserError
from .results import Study, StudyRun

NUM_IMAGES = 3
_WIDTH, _QUALITY = 420, 75

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagePair:
    """An image with what both classifiers made of it.

    Attributes:
        file_name: as in the per-image counts.
        difference: of the image's mIoU, mean over the paired seeds, in points.
        baseline, other: the image's mIoU in per cent, mean over the seeds.
        panels: title -> "data:" address of a picture; empty where they cannot be drawn.
    """

    file_name: str
    difference: float
    baseline: float
    other: float
    panels: Mapping[str, str] = field(default_factory=dict)


def image_scores(counts: ImageCounts) -> np.ndarray:
    """mIoU of each image, (N,) in per cent; NaN where nothing is labelled."""
    return metrics_of_counts(counts.counts)[:, 0]


def extreme_images(study: Study, label: str, dataset: str) -> list[ImagePair]:
    """Those that gain most, then those that lose most, each image once."""
    pairs = study.pairs(label)
    scores = np.array([[image_scores(run.counts[dataset]) for run in pair] for pair in pairs])
    baseline, other = scores.mean(0)
    difference = other - baseline
    order = [int(i) for i in np.argsort(difference) if not math.isnan(difference[i])]
    lose = _apart([i for i in order if difference[i] < 0], len(difference))
    gain = _apart([i for i in reversed(order) if difference[i] > 0], len(difference))
    names = pairs[0][0].counts[dataset].file_names
    return [
        ImagePair(names[i], float(difference[i]), float(baseline[i]), float(other[i]))
        for i in [*gain, *lose]
    ]


def _apart(ordered: Sequence[int], total: int) -> list[int]:
    """The first few that are not neighbours of each other: frames of a video are alike."""
    chosen: list[int] = []
    for index in ordered:
        if all(abs(index - other) >= max(total // 20, 1) for other in chosen):
            chosen.append(index)
        if len(chosen) == NUM_IMAGES:
            break
    return chosen


class PairPainter:
    """Predicts chosen images again with the runs' final models, each loaded once.

    Attributes:
        notes: what could not be drawn, and why.
    """

    def __init__(self, dataset: str):
        self.dataset = dataset
        self.notes: list[str] = []
        self._predictors: dict[Path, SemSegPredictor | None] = {}

    def draw(
        self, images: Sequence[ImagePair], baseline: StudyRun, other: StudyRun
    ) -> list[ImagePair]:
        """The images with their panels, as far as there are files to make them of."""
        records = self._records()
        models = [(run.label, self._predictor(run)) for run in (baseline, other)]
        classes = classes_of(self.dataset, baseline.counts[self.dataset].class_names)
        if not records or any(model is None for _, model in models):
            return list(images)
        drawn = []
        for image in images:
            record = next((r for r in records if _is(r["file_name"], image.file_name)), None)
            panels = {} if record is None else _panels(record, models, classes)
            drawn.append(
                ImagePair(image.file_name, image.difference, image.baseline, image.other, panels)
            )
        return drawn

    def _records(self) -> list[dict]:
        try:
            return DatasetCatalog.get(self.dataset)
        except (KeyError, OSError, UserError) as error:
            self._note(f"No pictures of {self.dataset}: the dataset is not here ({error}).")
            return []

    def _predictor(self, run: StudyRun) -> SemSegPredictor | None:
        if run.folder not in self._predictors:
            self._predictors[run.folder] = self._load(run)
        return self._predictors[run.folder]

    def _load(self, run: StudyRun) -> SemSegPredictor | None:
        weights = run.folder / "model_final.pth"
        if not weights.is_file():
            self._note(f"No pictures of {run.label}: {weights} is not here.")
            return None
        config = str(run.folder / "config.yaml")
        try:
            cfg = setup_config(config, ["MODEL.WEIGHTS", str(weights)], for_inference=True)
            return SemSegPredictor(cfg)
        except (ValueError, OSError) as error:
            self._note(f"No pictures of {run.label}: {error}")
            return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _is(path: str, name: str) -> bool:
    """Whether a path ends with the parts of a name."""
    parts = Path(name).parts
    return Path(path).parts[-len(parts) :] == parts


def _panels(record: Mapping, models, classes) -> dict[str, str]:
    try:
        image = read_image(record["file_name"], "RGB")
    except (OSError, UserError) as error:
        logger.warning("%s", error)
        return {}
    panels = {"image": jpeg_address(image, _WIDTH, _QUALITY)}
    label_file = record.get("sem_seg_file_name")
    if label_file and classes.load_truth is not None:
        panels["ground truth"] = label_address(
            classes.load_truth(label_file), classes.colors, _WIDTH
        )
    for label, model in models:
        panels[label] = label_address(model(image), classes.colors, _WIDTH)
    return panels
