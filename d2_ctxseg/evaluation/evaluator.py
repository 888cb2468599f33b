"""Evaluate label maps one by one; only counts are kept, in total and per image."""

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data import (
    DatasetError,
    LabelFormat,
    check_label_values,
    read_label,
    register_builtin_datasets,
)
from ..utils.errors import UserError, counted, suggest
from .calibration import calibration_metrics, confidence_counts, no_counts
from .confusion import (
    ABSENT_CLASSES,
    MOST_CLASSES_FOR_BOUNDARY,
    boundary,
    confusion_matrix,
    image_metrics,
    segmentation_metrics,
    smallest_label_type,
)
from .examples import WorstAndBest
from .image_counts import ImageCounts, image_counts
from .results import EvaluationFiles, format_class_table
from .saved_predictions import PredictionWriter, remove_predictions

logger = logging.getLogger(__name__)


def label_loader(dataset_name: str) -> Callable[..., np.ndarray]:
    """A function that reads a label file of the dataset as class indices (H, W)."""
    register_builtin_datasets([dataset_name])
    label_format = LabelFormat.from_metadata(MetadataCatalog.get(dataset_name))
    return partial(_load_label, label_format=label_format)


def _load_label(
    path: str, dtype: type[np.integer] = np.int64, *, label_format: LabelFormat
) -> np.ndarray:
    label = read_label(path, label_format.id_map)
    check_label_values(label, label_format, path)
    return label.astype(dtype)


class SegmentationEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC, pACC and their values per class, in per cent.

    Equal to Detectron2's SemSegEvaluator on the same predictions. Images without labels are
    predicted (and saved) but not evaluated.

    Args:
        dataset_name: a registered dataset.
        task: the name of the results, "sem_seg" or "sem_seg_TTA".
        prediction_key: name of the model's output to evaluate, label maps (H, W). If a model has
            no such output, the classes of the highest scores of "sem_seg" (K, H, W) are evaluated.
        output_dir: results are written there; None writes nothing.
        distributed: gather over all workers.
        boundary_iou: compute the boundary IoU as well (slow; at most 254 classes).
        absent_classes: the IoU of classes that are absent from the ground truth, "left_out" or
            "zero_if_predicted"; see ``confusion.segmentation_metrics``.
        save_predictions: write label images and COCO RLE to ``output_dir``.
        weights: the checkpoint's name, for the results.
        num_examples: number of the worst, and of the best, images whose predictions are saved.
        confidence_key: name of the model's output with the confidences (H, W) of the predictions,
            in [0, 1]: "ECE" and "AURC" (``calibration``) are computed from them. A model without
            such an output gives the highest softmax of "sem_seg". None: no confidences.

    Raises:
        UserError: ``absent_classes`` is unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        task: str = "sem_seg",
        prediction_key: str = "label_map",
        output_dir: str | None = None,
        distributed: bool = True,
        boundary_iou: bool = False,
        absent_classes: str = "left_out",
        save_predictions: bool = False,
        num_examples: int = 0,
        weights: str = "",
        confidence_key: str | None = None,
    ):
        self.dataset_name, self.task, self.prediction_key = dataset_name, task, prediction_key
        self._output_dir = Path(output_dir) if output_dir else None
        self._distributed = distributed
        register_builtin_datasets([dataset_name])
        self._metadata = MetadataCatalog.get(dataset_name)
        self._label_format = LabelFormat.from_metadata(self._metadata)
        self._num_classes = self._label_format.num_classes
        self._dtype = smallest_label_type(self._num_classes)
        if absent_classes not in ABSENT_CLASSES:
            raise UserError(
                f"TEST.ABSENT_CLASSES is '{absent_classes}', expected one of "
                f"{', '.join(ABSENT_CLASSES)}.{suggest(absent_classes, ABSENT_CLASSES)}"
            )
        self._absent_classes = absent_classes
        self._boundary_iou = boundary_iou and self._can_have_boundaries()
        self._saved_to = self._output_dir if save_predictions else None
        self._weights = weights
        self._num_examples = num_examples if self._output_dir else 0
        self._confidence_key = confidence_key
        self._label_files = {
            record["file_name"]: record.get("sem_seg_file_name")
            for record in DatasetCatalog.get(dataset_name)
        }

    def _can_have_boundaries(self) -> bool:
        if self._num_classes <= MOST_CLASSES_FOR_BOUNDARY:
            return True
        logger.warning(
            "No boundary IoU for %s: it has %d classes, boundary IoU is computed for at most %d.",
            self.dataset_name,
            self._num_classes,
            MOST_CLASSES_FOR_BOUNDARY,
        )
        return False

    def reset(self) -> None:
        """Discard all images."""
        shape = (self._num_classes + 1, self._num_classes + 1)
        #: Rows: predicted, columns: true; the last of each is "ignored".
        self.confusion = np.zeros(shape, np.int64)
        self._boundary_confusion = np.zeros(shape, np.int64) if self._boundary_iou else None
        self._confidences = None if self._confidence_key is None else no_counts()
        self._images: dict[str, dict[str, float]] = {}
        self._counts: dict[str, np.ndarray] = {}
        self._examples = WorstAndBest(self._num_examples)
        self._writer = None if self._saved_to is None else self._make_writer(self._saved_to)

    def _make_writer(self, folder: Path) -> PredictionWriter:
        if self._rank() == 0:
            remove_predictions(folder)
        if self._distributed:
            comm.synchronize()
        ids = original_ids(self._metadata, self._label_format)
        return PredictionWriter(folder, list(self._label_files), ids, self._rank())

    def _rank(self) -> int:
        return comm.get_rank() if self._distributed else 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of one batch.

        Args:
            inputs: dicts with "file_name". An image that occurs again is not counted again.
            outputs: dicts with a label map (H, W), integers, or scores; see ``prediction_key``.

        Raises:
            UserError: an image is not in the dataset, or its prediction and its label differ in
                size.
            DatasetError: a label has a value that is neither a class nor the ignore label.
        """
        for input_, output in zip(inputs, outputs):
            file_name = input_["file_name"]
            if file_name not in self._label_files:
                raise UserError(
                    f"The image {file_name} is not in the dataset '{self.dataset_name}' that it "
                    "is evaluated on."
                )
            if file_name not in self._images:
                self._images[file_name] = {}
                labels, confidence = self._predicted_labels(output), self._confidence(output)
                self._process_image(file_name, labels, confidence)

    def _predicted_labels(self, output: dict) -> np.ndarray:
        """(H, W) of the smallest type, on the CPU."""
        labels = output.get(self.prediction_key)
        if labels is None:
            labels = output["sem_seg"].argmax(dim=0)
        if self._dtype is np.uint8:
            labels = labels.to(torch.uint8)  # before the transfer from the device
        return labels.cpu().numpy().astype(self._dtype, copy=False)

    def _confidence(self, output: dict) -> np.ndarray | None:
        """(H, W) float32, on the CPU."""
        if self._confidence_key is None:
            return None
        confidence = output.get(self._confidence_key)
        if confidence is None:
            confidence = output["sem_seg"].float().softmax(dim=0).amax(dim=0)
        return confidence.float().cpu().numpy()

    def _process_image(
        self, file_name: str, prediction: np.ndarray, confidence: np.ndarray | None
    ) -> None:
        if self._writer is not None:
            self._writer.write(file_name, prediction)
        label_file = self._label_files[file_name]
        if label_file is None:
            return
        ground_truth = self._load_ground_truth(label_file, file_name, prediction.shape)
        confusion = confusion_matrix(prediction, ground_truth, self._num_classes)
        self.confusion += confusion
        if self._boundary_confusion is not None:
            self._boundary_confusion += confusion_matrix(
                boundary(prediction), boundary(ground_truth), self._num_classes
            )
        if confidence is not None:
            labelled = ground_truth < self._num_classes
            correct = (prediction == ground_truth)[labelled]
            self._confidences += confidence_counts(confidence[labelled], correct)
        metrics = image_metrics(confusion)
        self._images[file_name] = metrics
        self._counts[file_name] = image_counts(confusion)
        self._examples.add(file_name, label_file, metrics["mIoU"], prediction)

    def _load_ground_truth(self, label_file: str, file_name: str, shape: tuple) -> np.ndarray:
        """The label (H, W), in which the number of classes means "ignored"."""
        label = read_label(label_file, self._label_format.id_map)
        check_label_values(label, self._label_format, label_file)
        if label.shape != shape:
            raise UserError(
                f"The prediction for {file_name} has the size {shape}, but its label {label_file} "
                f"has {label.shape} (height, width). A model must predict in the size of the image "
                "file."
            )
        if self._label_format.ignore_label != self._num_classes:
            label[label == self._label_format.ignore_label] = self._num_classes
        return label.astype(self._dtype, copy=False)

    def evaluate(self) -> OrderedDict | None:
        """``{task: {metric: per cent}}`` on the main process, None on the others.

        Raises:
            UserError: two workers evaluated the same image.
        """
        if self._distributed and comm.get_world_size() > 1:
            self._gather()
            if not comm.is_main_process():
                return None
        if self._writer is not None:
            self._writer.join(comm.get_world_size() if self._distributed else 1)
        if not self.confusion[:, :-1].any():  # the last column counts ignored pixels
            logger.warning(
                "%s on %s: there is no labelled pixel, so there are no metrics.",
                self.task,
                self.dataset_name,
            )
            return OrderedDict()
        names = self._metadata.stuff_classes
        metrics = segmentation_metrics(
            self.confusion, names, self._boundary_confusion, self._absent_classes
        )
        if self._confidences is not None:
            metrics |= calibration_metrics(self._confidences)
        logger.info(
            "%s on %s (%s), per class:\n%s",
            self.task,
            self.dataset_name,
            counted(len(self._images), "image"),
            format_class_table(metrics),
        )
        if self._output_dir:
            self._write(metrics, self._output_dir)
        return OrderedDict({self.task: metrics})

    def _gather(self) -> None:
        """Sum the counts of all workers."""
        self.confusion = sum(comm.all_gather(self.confusion))
        if self._boundary_confusion is not None:
            self._boundary_confusion = sum(comm.all_gather(self._boundary_confusion))
        if self._confidences is not None:
            self._confidences = sum(comm.all_gather(self._confidences))
        images, examples = comm.all_gather(self._images), comm.gather(self._examples.examples())
        for first, second in itertools.combinations(images, 2):
            twice = first.keys() & second.keys()
            if twice:
                raise UserError(
                    f"Two workers evaluated the image {sorted(twice)[0]}: it would count twice. "
                    "Use a test loader that gives each image to one worker, such as Detectron2's "
                    "build_detection_test_loader."
                )
        self._images = {name: metrics for one in images for name, metrics in one.items()}
        counts = comm.all_gather(self._counts)
        self._counts = {name: array for one in counts for name, array in one.items()}
        merged = WorstAndBest(self._num_examples)
        for example in {example.file_name: example for one in examples for example in one}.values():
            merged.add_example(example)
        self._examples = merged

    def _write(self, metrics: dict[str, float], folder: Path) -> None:
        EvaluationFiles(
            dataset=self.dataset_name,
            task=self.task,
            weights=self._weights,
            class_names=self._metadata.stuff_classes,
            metrics=metrics,
            confusion=self.confusion,
            # In the dataset's order, independent of the workers.
            images=[
                {"file_name": name, "sem_seg_file_name": label or "", **self._images[name]}
                for name, label in self._label_files.items()
                if name in self._images
            ],
            counts=self._image_counts(),
            confidences=self._confidences,
            worst=self._examples.worst(),
            best=self._examples.best(),
        ).write(folder)

    def _image_counts(self) -> ImageCounts:
        """The counts of the labelled images, in the dataset's order."""
        names = [name for name in self._label_files if name in self._counts]
        counts = [self._counts[name] for name in names]
        return ImageCounts.of_images(names, self._metadata.stuff_classes, counts)


def original_ids(metadata: Metadata, label_format: LabelFormat) -> dict[int, int] | None:
    """Class index -> id in the publishers' files; None where they are the same."""
    known = metadata.get("original_ids")
    if known:
        return dict(enumerate(known))
    dataset_ids = metadata.get("stuff_dataset_id_to_contiguous_id")
    if dataset_ids:
        return {own: theirs for theirs, own in dataset_ids.items()}
    if label_format.id_map is None:
        return None
    ids: dict[int, int] = {}
    for raw, index in sorted(label_format.id_map.items(), reverse=True):
        ids[index] = raw  # the lowest of several values that are mapped to one class
    ids.pop(label_format.ignore_label, None)
    missing = set(range(label_format.num_classes)) - ids.keys()
    if missing:
        raise DatasetError(
            f"'{metadata.name}': 'id_map' maps no value to class {min(missing)}, so that its "
            "predictions cannot be saved with the dataset's own ids. Add 'original_ids' to its "
            "YAML."
        )
    return ids
