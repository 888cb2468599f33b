"""The standard metrics of semantic segmentation, from confusion matrices."""

import itertools
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.comm import all_gather, is_main_process, synchronize
from detectron2.utils.file_io import PathManager

from .evaluator import DatasetEvaluator

__all__ = ["SemSegEvaluator", "load_image_into_numpy_array"]

# The width of a boundary as a part of the image's diagonal (https://arxiv.org/abs/2103.16562).
_BOUNDARY_RATIO = 0.02
# Boundaries are found in uint8, where one value beyond the classes is needed for "ignored".
_MAX_CLASSES_FOR_BOUNDARY = 254


def load_image_into_numpy_array(filename: str, dtype=None) -> np.ndarray:
    """The values of an image file as PIL reads them, (H, W[, C])."""
    with PathManager.open(filename, "rb") as file:
        return np.array(Image.open(file), dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """IoU, accuracy and boundary IoU over a dataset, in percent.

    Classes that do not occur in the ground truth have NaN and do not count in the means.

    Args:
        dataset_name: registered, with records that have "file_name" and "sem_seg_file_name", and
            metadata ``stuff_classes`` and ``ignore_label``. With the optional metadata
            ``stuff_dataset_id_to_contiguous_id`` the saved predictions have the dataset's own ids.
        distributed: gather the results of all processes.
        output_dir: where to save ``sem_seg_predictions.json`` and ``sem_seg_evaluation.pth``.
            Nothing is saved if it is None.
        sem_seg_loading_fn: reads a label map: called with a file name and ``dtype=int``.
        num_classes: deprecated; must be the number of ``stuff_classes``.
        ignore_label: deprecated; takes the place of the metadata's.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        sem_seg_loading_fn: Callable = load_image_into_numpy_array,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ):
        self._logger = logging.getLogger(__name__)
        for name, value in (("num_classes", num_classes), ("ignore_label", ignore_label)):
            if value is not None:
                self._logger.warning(
                    f"SemSegEvaluator({name}) is deprecated! It should be obtained from metadata."
                )
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self.sem_seg_loading_fn = sem_seg_loading_fn
        self.input_file_to_gt_file = {
            record["file_name"]: record["sem_seg_file_name"]
            for record in DatasetCatalog.get(dataset_name)
        }
        metadata = MetadataCatalog.get(dataset_name)
        dataset_ids = metadata.get("stuff_dataset_id_to_contiguous_id")
        self._contiguous_id_to_dataset_id = (
            None if dataset_ids is None else {own: theirs for theirs, own in dataset_ids.items()}
        )
        self._class_names = metadata.stuff_classes
        self._num_classes = len(self._class_names)
        assert num_classes in (None, self._num_classes), f"{self._num_classes} != {num_classes}"
        self._ignore_label = metadata.ignore_label if ignore_label is None else ignore_label
        self._compute_boundary_iou = self._num_classes <= _MAX_CLASSES_FOR_BOUNDARY
        if not self._compute_boundary_iou:
            self._logger.warning(
                f"No boundary IoU for {dataset_name}: it has {self._num_classes} classes, boundary "
                f"IoU is computed for at most {_MAX_CLASSES_FOR_BOUNDARY}."
            )

    def reset(self):
        """Forget all images."""
        # Rows: predicted, columns: true; the last of each is "ignored".
        shape = (self._num_classes + 1, self._num_classes + 1)
        self._conf_matrix = np.zeros(shape, dtype=np.int64)
        self._b_conf_matrix = np.zeros(shape, dtype=np.int64)
        self._predictions = []

    def process(self, inputs, outputs):
        """Take in one batch.

        Args:
            inputs: dicts with "file_name".
            outputs: dicts with "sem_seg", scores or logits (K, H, W) of the label map's size.

        Raises:
            KeyError: an image is not in the dataset.
            ValueError: a prediction has another size than its label map, or the label map has
                labels that are neither a class nor the ignore label.
        """
        for input_, output in zip(inputs, outputs):
            prediction = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(int)
            truth = self._load_truth(input_["file_name"], prediction.shape)
            self._conf_matrix += self._confusion(prediction, truth)
            if self._compute_boundary_iou:
                self._b_conf_matrix += self._confusion(_boundary(prediction), _boundary(truth))
            self._predictions.extend(self.encode_json_sem_seg(prediction, input_["file_name"]))

    def _load_truth(self, file_name: str, shape: tuple[int, int]) -> np.ndarray:
        """The label map (H, W), int64, in which the number of classes means "ignored"."""
        truth_file = self.input_file_to_gt_file[file_name]
        labels = self.sem_seg_loading_fn(truth_file, dtype=int)
        if labels.shape != shape:
            raise ValueError(
                f"The prediction for {file_name} has shape {shape}, but its label map {truth_file} "
                f"has {labels.shape}. The model must return scores of the original image size."
            )
        is_ignored = labels == self._ignore_label
        is_class = (labels >= 0) & (labels < self._num_classes)
        if not np.all(is_ignored | is_class):
            unknown = np.unique(labels[~(is_ignored | is_class)]).tolist()
            raise ValueError(
                f"{truth_file} has the labels {unknown}, which are neither classes of "
                f"'{self._dataset_name}' (0 to {self._num_classes - 1}) nor its ignore label "
                f"{self._ignore_label}."
            )
        return np.where(is_ignored, self._num_classes, labels)

    def _confusion(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Pixels of each (predicted, true) pair, (K + 1, K + 1) int64."""
        size = self._num_classes + 1
        pairs = size * prediction.reshape(-1).astype(np.int64) + truth.reshape(-1)
        return np.bincount(pairs, minlength=size**2).reshape(size, size)

    def evaluate(self):
        """Compute the metrics, log and save them.

        Returns:
            {"sem_seg": metrics} with "mIoU", "fwIoU" (weighted by the classes' frequencies),
            "mACC", "pACC", and for each class "IoU-", "BoundaryIoU-", "min(IoU, B-Iou)-" and
            "ACC-" and its name. None in processes other than the main one, if distributed.
        """
        if self._distributed:
            synchronize()
            self._conf_matrix = sum(all_gather(self._conf_matrix))
            self._b_conf_matrix = sum(all_gather(self._b_conf_matrix))
            self._predictions = list(itertools.chain(*all_gather(self._predictions)))
            if not is_main_process():
                return None
        metrics = self._metrics()
        if self._output_dir:
            self._save(metrics)
        results = OrderedDict({"sem_seg": metrics})
        self._logger.info(results)
        return results

    def _metrics(self) -> dict[str, float]:
        hits, true, predicted = _class_counts(self._conf_matrix)
        is_present = true > 0
        accuracy = _ratio(hits, true)
        iou = np.where(is_present, _ratio(hits, true + predicted - hits), np.nan)
        if self._compute_boundary_iou:
            hits_b, true_b, predicted_b = _class_counts(self._b_conf_matrix)
            boundary_iou = _ratio(hits_b, true_b + predicted_b - hits_b)
        frequency = _ratio(true, true.sum())

        metrics = {
            "mIoU": _mean(iou[is_present]),
            "fwIoU": np.sum(iou[is_present] * frequency[is_present]),
        }
        for index, name in enumerate(self._class_names):
            metrics[f"IoU-{name}"] = iou[index]
            if self._compute_boundary_iou:
                metrics[f"BoundaryIoU-{name}"] = boundary_iou[index]
                # Python's min: NaN only if the class is absent, not for want of a boundary.
                metrics[f"min(IoU, B-Iou)-{name}"] = min(iou[index], boundary_iou[index])
        metrics["mACC"] = _mean(accuracy[is_present])
        metrics["pACC"] = _ratio(hits.sum(), true.sum())
        metrics.update({f"ACC-{name}": accuracy[i] for i, name in enumerate(self._class_names)})
        return {name: 100 * float(value) for name, value in metrics.items()}

    def _save(self, metrics: dict[str, float]) -> None:
        PathManager.mkdirs(self._output_dir)
        predictions_path = os.path.join(self._output_dir, "sem_seg_predictions.json")
        with open(predictions_path + ".tmp", "w", encoding="utf-8") as file:
            json.dump(self._predictions, file)
        os.replace(predictions_path + ".tmp", predictions_path)
        metrics_path = os.path.join(self._output_dir, "sem_seg_evaluation.pth")
        torch.save(metrics, metrics_path + ".tmp")
        os.replace(metrics_path + ".tmp", metrics_path)

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[dict]:
        """A prediction in the format of COCO stuff (https://cocodataset.org/#format-results).

        Args:
            sem_seg: (H, W), predicted classes.
            input_file_name: the image's.

        Returns:
            A dict for each class that occurs: "file_name", "category_id" and "segmentation", its
            pixels as RLE.
        """
        entries = []
        for label in np.unique(sem_seg).tolist():
            dataset_id = label
            if self._contiguous_id_to_dataset_id is not None:
                assert label in self._contiguous_id_to_dataset_id, (
                    f"Label {label} is not in the metadata info for {self._dataset_name}"
                )
                dataset_id = self._contiguous_id_to_dataset_id[label]
            rle = mask_util.encode(np.asfortranarray(sem_seg == label, dtype=np.uint8))
            rle["counts"] = rle["counts"].decode("utf-8")
            entries.append(
                {"file_name": input_file_name, "category_id": dataset_id, "segmentation": rle}
            )
        return entries


def _boundary(labels: np.ndarray) -> np.ndarray:
    """What is left of a label map (H, W) if its erosion is taken away from it, uint8.

    That is the label where the neighbourhood has a pixel of class 0, else the difference to the
    lowest label there. What lies beyond the image is class 0.
    """
    labels = labels.astype(np.uint8)
    diagonal = math.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2)
    distance = max(1, round(_BOUNDARY_RATIO * diagonal))
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=distance)
    return labels - eroded[1:-1, 1:-1]


def _class_counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counted pixels of each class: hits, true ones, predicted ones; each (K,) float64."""
    counted = confusion[:-1, :-1].astype(float)
    return counted.diagonal(), counted.sum(axis=0), counted.sum(axis=1)


def _ratio(part, whole):
    """part / whole; NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> float:
    """Mean; NaN of nothing."""
    return values.mean() if len(values) else np.nan
