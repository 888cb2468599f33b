"""The official evaluation of Cityscapes, with the package cityscapesscripts."""

import contextlib
import copy
import importlib
import io
import logging
import socket
import tempfile
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.preparation.sources import read_source_ids
from ..data.registration import has_labels, register_builtin_datasets
from .saved_predictions import write_label_image

PACKAGE = "cityscapesscripts"
_LABEL_SUFFIXES = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
# The files that the package reads; the second one for the metrics of instances.
_OFFICIAL_SUFFIXES = ("_gtFine_labelIds.png", "_gtFine_instanceIds.png")

logger = logging.getLogger(__name__)


def cityscapes_evaluators(
    dataset_name: str,
    *,
    task: str = "sem_seg",
    prediction_key: str = "label_map",
    distributed: bool = True,
) -> list["CityscapesScriptsEvaluator"]:
    """The official evaluator for Cityscapes with labels; an empty list for other datasets."""
    if not is_cityscapes(dataset_name):
        return []
    return [
        CityscapesScriptsEvaluator(
            dataset_name, task=task, prediction_key=prediction_key, distributed=distributed
        )
    ]


def is_cityscapes(dataset_name: str) -> bool:
    """Whether a registered dataset has Cityscapes' 19 classes and names of label files."""
    register_builtin_datasets([dataset_name])
    classes = MetadataCatalog.get(dataset_name).get("stuff_classes") or ()
    if sorted(classes) != sorted(read_source_ids("cityscapes").values()):
        return False
    if not has_labels(dataset_name):
        return False
    return any(_official_label(record) for record in DatasetCatalog.get(dataset_name))


class CityscapesScriptsEvaluator(DatasetEvaluator):
    """IoU and iIoU of classes and categories, in per cent, as on the benchmark's server.

    iIoU weights the pixels of an object with the ratio of the average size of objects of its class
    to the size of the object, so that missing a small one costs as much as missing a large one
    (Cordts et al., The Cityscapes Dataset, CVPR 2016, section 4.1). The package computes all
    metrics from files with label ids.

    The mIoU equals that of SegmentationEvaluator where the labels contain all classes, as in the
    official splits. A class that is predicted, but absent from the labels, counts as 0 here; in
    SegmentationEvaluator only with TEST.ABSENT_CLASSES "zero_if_predicted".

    There are no results, and a warning states the reason, if the package is not installed, official
    files are missing beside the labels, or the workers run on several machines, which share no
    temporary folder.

    Args:
        dataset_name: a registered dataset for which :func:`is_cityscapes` holds.
        task: the task of the other evaluator. The results are called "sem_seg_cityscapesscripts"
            for "sem_seg" and "sem_seg_cityscapesscripts_TTA" for "sem_seg_TTA".
        prediction_key: name of the model's output to evaluate, label maps (H, W). If a model has
            no such output, the classes of the highest scores of "sem_seg" (K, H, W) are evaluated.
        distributed: evaluate the predictions of all workers together.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        task: str = "sem_seg",
        prediction_key: str = "label_map",
        distributed: bool = True,
    ):
        self.dataset_name, self.prediction_key = dataset_name, prediction_key
        self.task = task.replace("sem_seg", f"sem_seg_{PACKAGE}", 1)
        self._distributed = distributed
        ids = {name: label_id for label_id, name in read_source_ids("cityscapes").items()}
        classes = MetadataCatalog.get(dataset_name).stuff_classes
        self._ids = np.array([ids[name] for name in classes], np.uint8)
        labels = {
            record["file_name"]: _official_label(record)
            for record in DatasetCatalog.get(dataset_name)
        }
        self._labels = {image: label for image, label in labels.items() if label}
        self._numbers = {image: number for number, image in enumerate(self._labels)}
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._folder: Path | None = None

    def reset(self) -> None:
        """Discard all images. All workers call it together."""
        self._clean_up()
        name = ""
        if self._is_main():
            self._temporary = tempfile.TemporaryDirectory(prefix="cityscapes_")
            name = self._temporary.name
        facts = (name, self._problem(), socket.gethostname())
        of_workers = comm.all_gather(facts) if self._distributed else [facts]
        problems = [problem for _, problem, _ in of_workers if problem]
        if len({host for *_, host in of_workers}) > 1:
            problems.append("it does not support several machines")
        if problems:
            self._leave_out(problems[0])
        else:
            self._folder = Path(of_workers[0][0])

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write the predictions of one batch, as label ids, to files.

        Args:
            inputs: dicts with "file_name"; images without official label files are left out.
            outputs: dicts with a label map (H, W), integers, or scores; see ``prediction_key``.
        """
        if self._folder is None:
            return
        for input_, output in zip(inputs, outputs):
            if input_["file_name"] in self._numbers:
                labels = self._predicted_labels(output)
                path = self._prediction_file(self._folder, input_["file_name"])
                write_label_image(path, self._ids[labels])

    def _predicted_labels(self, output: dict) -> np.ndarray:
        labels = output.get(self.prediction_key)
        if labels is None:
            labels = output["sem_seg"].argmax(dim=0)
        return labels.to(torch.uint8).cpu().numpy()

    def evaluate(self) -> OrderedDict | None:
        """``{task: {metric: per cent}}`` on the main process, None on the others.

        The metrics are "mIoU", "iIoU" (means of the classes), "IoU_sup", "iIoU_sup" (means of the
        categories, which are groups of classes), and those of each class and category, such as
        "IoU-road", "iIoU-person", "IoU_sup-flat", "iIoU_sup-human". NaN: absent from the labels.
        """
        if self._distributed:
            comm.synchronize()
        if not self._is_main():
            return None
        try:
            return self._evaluate()
        finally:
            self._clean_up()

    def _evaluate(self) -> OrderedDict:
        if self._folder is None:
            return OrderedDict()
        files = {image: self._prediction_file(self._folder, image) for image in self._labels}
        pairs = [
            (str(files[image]), label)
            for image, label in self._labels.items()
            if files[image].exists()
        ]
        if not pairs:
            self._leave_out("no image was predicted")
            return OrderedDict()
        try:
            results = evaluate_files(*zip(*pairs))
        # Of any type: the results of the other evaluators must not be lost.
        except Exception as error:
            self._leave_out(f"the package fails with {type(error).__name__}: {error}")
            return OrderedDict()
        logger.info(
            "%s on %s (%d images): mIoU %.2f, iIoU %.2f; of categories IoU %.2f, iIoU %.2f",
            *(self.task, self.dataset_name, len(pairs)),
            *(results[key] for key in ("mIoU", "iIoU", "IoU_sup", "iIoU_sup")),
        )
        return OrderedDict({self.task: results})

    def _prediction_file(self, folder: Path, image: str) -> Path:
        # The package does not use the names of the files.
        return folder / f"{self._numbers[image]}.png"

    def _is_main(self) -> bool:
        return comm.is_main_process() or not self._distributed

    def _problem(self) -> str | None:
        """The reason why the package cannot evaluate this dataset here, or None."""
        files = [
            path.replace(_OFFICIAL_SUFFIXES[0], suffix)
            for path in self._labels.values()
            for suffix in _OFFICIAL_SUFFIXES
        ]
        missing = [path for path in files if not Path(path).is_file()]
        if missing:
            shown = f"{len(missing)} of {len(files)}"
            return f"{shown} official files beside the labels are missing, such as {missing[0]}"
        if not files:
            return "no label file is named like Cityscapes' own"
        try:
            _import_evaluation()
        # Not installed, a dependency is missing, or CITYSCAPES_EXPORT_DIR is wrong.
        except (ImportError, ValueError, OSError) as error:
            return f"the package {PACKAGE} cannot be imported ({error}); pip install {PACKAGE}"
        return None

    def _leave_out(self, reason: str) -> None:
        if self._is_main():
            logger.warning("%s on %s is left out: %s.", self.task, self.dataset_name, reason)

    def _clean_up(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
        self._temporary = self._folder = None


def evaluate_files(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """The metrics, in per cent, of label images with label ids; shows a progress bar.

    Args:
        predictions: label images (H, W).
        labels: the official ``*_gtFine_labelIds.png`` in the same order, with
            ``*_gtFine_instanceIds.png`` in the same folder.

    Raises:
        RuntimeError: the package refuses a file; the message is the package's.
    """
    evaluation = _import_evaluation()
    # A copy: the package changes the settings.
    options = copy.copy(evaluation.args)
    options.evalInstLevelScore, options.evalPixelAccuracy = True, False
    options.quiet, options.JSONOutput, options.colorized = True, False, False
    said = io.StringIO()
    try:
        with (
            _with_in1d(evaluation),
            tqdm(total=len(labels), desc=PACKAGE, unit="image") as bar,
            contextlib.redirect_stdout(said),
        ):
            results = evaluation.evaluateImgLists(list(predictions), _Counted(labels, bar), options)
    except SystemExit as error:  # its way to report errors
        raise RuntimeError(said.getvalue().strip()) from error
    return _in_per_cent(results, evaluation)


class _Counted(list):
    """A list that advances a progress bar when an item is read."""

    def __init__(self, items: Iterable, bar: tqdm):
        super().__init__(items)
        self._bar = bar

    def __getitem__(self, index: Any) -> Any:
        self._bar.update()
        return super().__getitem__(index)


def _in_per_cent(results: dict, evaluation: types.ModuleType) -> dict[str, float]:
    classes = [label for label in evaluation.labels if not label.ignoreInEval]
    names = [label.name for label in classes]
    with_instances = [label.name for label in classes if label.hasInstances]
    groups = list(dict.fromkeys(label.category for label in classes))
    groups_with_instances = [
        group
        for group in groups
        if all(label.hasInstances for label in evaluation.category2labels[group] if label.id >= 0)
    ]
    metrics = {
        "mIoU": results["averageScoreClasses"],
        "iIoU": results["averageScoreInstClasses"],
        "IoU_sup": results["averageScoreCategories"],
        "iIoU_sup": results["averageScoreInstCategories"],
    }
    for metric, scores, shown in (
        ("IoU", "classScores", names),
        ("iIoU", "classInstScores", with_instances),
        ("IoU_sup", "categoryScores", groups),
        ("iIoU_sup", "categoryInstScores", groups_with_instances),
    ):
        metrics |= {f"{metric}-{name}": results[scores][name] for name in shown}
    return {name: 100 * float(value) for name, value in metrics.items()}


def _import_evaluation() -> types.ModuleType:
    return importlib.import_module(f"{PACKAGE}.evaluation.evalPixelLevelSemanticLabeling")


@contextlib.contextmanager
def _with_in1d(module: types.ModuleType) -> Iterator[None]:
    """Give a module numpy's function ``in1d``, which NumPy 2.4 removed and version 2.3 needs."""
    names = vars(module)
    numpy = names["np"]
    if not hasattr(numpy, "in1d"):
        names["np"] = types.SimpleNamespace(
            **vars(numpy), in1d=lambda values, of: np.isin(values, of).ravel()
        )
    try:
        yield
    finally:
        names["np"] = numpy


def _official_label(record: dict) -> str | None:
    """The path of the official file with the label ids of a record; None for other names."""
    path = record.get("sem_seg_file_name") or ""
    for suffix in _LABEL_SUFFIXES:
        if path.endswith(suffix):
            return path.removesuffix(suffix) + _OFFICIAL_SUFFIXES[0]
    return None
