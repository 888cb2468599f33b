"""Panels of chosen images: ground truth, and new predictions of both classifiers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2.data import DatasetCatalog

from ..data import register_builtin_datasets
from ..data.images import read_display_image
from ..deployment.predictor import SemSegPredictor
from ..engine import setup_config
from ..report.classes import DatasetClasses, classes_of
from ..report.example_images import jpeg_address, label_address
from ..utils.errors import MissingFileError
from .image_pairs import ImagePair
from .results import TASK, Study, StudyRun

# Images are narrower where there are many, so that the file stays below about 10 MB.
_WIDTH, _NARROW_WIDTH, _MANY_IMAGES = 420, 280, 60
_QUALITY = 75

logger = logging.getLogger(__name__)

# A dataset and a file name as in the per-image counts.
Place = tuple[str, str]


@dataclass(frozen=True)
class PageImage:
    """An image of the page.

    Attributes:
        address: "data:", for an <img>.
        pixels: class index -> number of pixels in a label map.
        has_ignored: whether pixels of it are no class, and hatched.
    """

    address: str
    pixels: Mapping[int, int]
    has_ignored: bool = False


class Gallery:
    """Images of chosen images, with predictions of each label's first pair of runs.

    Each model is loaded once, one after another. An image that cannot be drawn
    is left out, whatever the reason, and a note says so: a study must not fail because of its page.

    Args:
        study: the runs.
        chosen: dataset -> label -> images.

    Attributes:
        classes: classes of each dataset.
    """

    def __init__(self, study: Study, chosen: Mapping[str, Mapping[str, Sequence[ImagePair]]]):
        self._study = study
        self._images: dict[tuple[Place, str], PageImage] = {}
        self._notes: dict[str, list[str]] = {dataset: [] for dataset in chosen}
        self.classes: dict[str, DatasetClasses] = {}
        number = sum(len(images) for labels in chosen.values() for images in labels.values())
        self._width = _WIDTH if number <= _MANY_IMAGES else _NARROW_WIDTH
        for dataset in chosen:
            names = study.runs[study.baseline][0].counts[dataset].class_names
            self.classes[dataset] = classes_of(dataset, names)
        work = _work(study, chosen)
        records = self._records({place for _, places in work for place in places})
        for place, record in records.items():
            self._draw_record(place, record)
        for run, places in work:
            self._predict(run, {place: records[place] for place in places if place in records})

    def notes(self, dataset: str) -> list[str]:
        """What is left out, and why."""
        return self._notes[dataset]

    def panels(self, dataset: str, label: str, image: ImagePair) -> list[tuple[str, PageImage]]:
        """Titles and images: image, ground truth, both predictions, where they exist."""
        baseline, other = self._study.pairs(label)[0]
        titles = {
            "image": "image",
            "ground truth": "ground truth",
            str(baseline.folder): f"{baseline.label}: {image.baseline:.1f}",
            str(other.folder): f"{other.label}: {image.other:.1f}",
        }
        keys = {kind: ((dataset, image.file_name), kind) for kind in titles}
        known = [kind for kind in titles if keys[kind] in self._images]
        return [(titles[kind], self._images[keys[kind]]) for kind in known]

    def _records(self, places: set[Place]) -> dict[Place, Mapping]:
        """The dataset's record of each image on this machine."""
        found = {}
        for dataset in self._notes:
            names = sorted(name for of_dataset, name in places if of_dataset == dataset)
            register_builtin_datasets([dataset])
            try:
                records = DatasetCatalog.get(dataset) if names else []
            except Exception as error:  # a registered function may raise anything
                self._note(dataset, f"No images: {dataset} is not on this machine", error)
                continue
            own = {name: record_of(name, records) for name in names}
            missing = [name for name, record in own.items() if record is None]
            if missing:
                self._notes[dataset].append(
                    f"No images of {', '.join(missing)}: they are not in the dataset here."
                )
            found |= {(dataset, name): record for name, record in own.items() if record}
        return found

    def _draw_record(self, place: Place, record: Mapping) -> None:
        dataset, name = place
        load_ground_truth = self.classes[dataset].load_ground_truth
        try:
            image = read_display_image(record["file_name"], record.get("value_range"))
            self._images[place, "image"] = PageImage(jpeg_address(image, self._width, _QUALITY), {})
            label_file = record.get("sem_seg_file_name")
            if label_file and load_ground_truth is not None:
                self._draw_labels(place, "ground truth", load_ground_truth(label_file))
        except Exception as error:
            self._note(dataset, f"No image of {name}", error)

    def _predict(self, run: StudyRun, records: Mapping[Place, Mapping]) -> None:
        if not records:
            return
        try:
            predict = _predictor(run)
            for place, record in records.items():
                labels = predict(predict.read(record["file_name"])[0])
                self._draw_labels(place, str(run.folder), labels)
        except Exception as error:
            if not isinstance(error, MissingFileError):
                logger.warning("No predictions of %s", run.folder, exc_info=True)
            for dataset in dict.fromkeys(dataset for dataset, _ in records):
                self._note(dataset, f"No predictions of {run.label}, seed {run.seed}", error)

    def _draw_labels(self, place: Place, kind: str, labels: np.ndarray) -> None:
        colors = self.classes[place[0]].colors
        values, counts = np.unique(labels, return_counts=True)
        pixels = dict(zip(values.tolist(), counts.tolist()))
        address = label_address(labels, colors, self._width)
        of_classes = {label: n for label, n in pixels.items() if 0 <= label < len(colors)}
        self._images[place, kind] = PageImage(address, of_classes, len(of_classes) < len(pixels))

    def _note(self, dataset: str, text: str, error: Exception) -> None:
        # str(KeyError) has its text in quotes.
        reason = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        self._notes[dataset].append(f"{text}: {(reason or type(error).__name__).rstrip('.')}.")


def _work(study: Study, chosen) -> list[tuple[StudyRun, list[Place]]]:
    """The runs that have to predict, and their images."""
    runs: dict[Path, StudyRun] = {}
    places: dict[Path, dict[Place, None]] = {}
    for dataset, of_labels in chosen.items():
        for label, images in of_labels.items():
            for run in study.pairs(label)[0]:
                runs[run.folder] = run
                wanted = {(dataset, image.file_name): None for image in images}
                places.setdefault(run.folder, {}).update(wanted)
    return [(run, list(places[folder])) for folder, run in runs.items()]


def _predictor(run: StudyRun) -> SemSegPredictor:
    """The model that was evaluated: ``model_final.pth``, unless another one was evaluated since."""
    tasks = next(tasks for tasks in run.run.evaluations.values() if TASK in tasks)
    weights = run.folder / (Path(tasks[TASK].weights).name or "model_final.pth")
    if not weights.is_file():
        raise MissingFileError(f"'{weights}' does not exist")
    config_file = str(run.folder / "config.yaml")
    return SemSegPredictor(
        setup_config(config_file, ["MODEL.WEIGHTS", str(weights)], for_inference=True)
    )


def record_of(name: str, records: Sequence[Mapping]) -> Mapping | None:
    """The record whose file lies at ``name`` below the folder of all images; None without one.

    ``1.png`` is the end of ``images/1.png`` and of ``images/more/1.png``: the shortest path counts.
    """
    parts = Path(name).parts
    paths = [(Path(record["file_name"]).parts, record) for record in records]
    found = [(len(path), record) for path, record in paths if path[-len(parts) :] == parts]
    return min(found, key=lambda pair: pair[0])[1] if found else None
