"""Confusion matrices of label maps, and the standard metrics from them. Plain NumPy and OpenCV."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

# OpenCV counts in single precision, which is exact up to here.
_MOST_PIXELS = 1 << 24
# The width of a boundary as a fraction of the image's diagonal (Boundary IoU, arXiv 2103.16562).
BOUNDARY_RATIO = 0.02
# Boundaries are found in uint8, as Detectron2 does; 255 is left for "ignored".
MOST_CLASSES_FOR_BOUNDARY = 254
ABSENT_CLASSES = ("left_out", "zero_if_predicted")


def smallest_label_type(num_classes: int) -> type[np.unsignedinteger]:
    """uint8 if that holds the classes' indices and one more, else uint16."""
    return np.uint8 if num_classes <= 255 else np.uint16


def confusion_matrix(
    prediction: np.ndarray, ground_truth: np.ndarray, num_classes: int
) -> np.ndarray:
    """Pixels of each (predicted, true) pair of classes, (K + 1, K + 1) int64.

    Args:
        prediction: (H, W), class indices; K means "ignored".
        ground_truth: the same; K means "ignored". Both of one type, uint8 or uint16.
        num_classes: K.

    Raises:
        ValueError: shapes or types differ, or a value above K.
    """
    if prediction.shape != ground_truth.shape or prediction.dtype != ground_truth.dtype:
        raise ValueError(
            f"prediction {prediction.dtype} {prediction.shape} and ground truth "
            f"{ground_truth.dtype} {ground_truth.shape} must have one type and one shape"
        )
    size = num_classes + 1
    total = np.zeros((size, size), np.int64)
    rows = max(_MOST_PIXELS // max(prediction.shape[1], 1), 1)
    for start in range(0, len(prediction), rows):
        pair = [
            np.ascontiguousarray(labels[start : start + rows])
            for labels in (prediction, ground_truth)
        ]
        # Two to three times as fast as NumPy's bincount of joint indices.
        counts = cv2.calcHist(pair, [0, 1], None, [size, size], [0, size, 0, size])
        np.add(total, counts, out=total, casting="unsafe")
    if total.sum() != prediction.size:
        raise ValueError(f"labels above {num_classes}, the number of classes")
    return total


def boundary(labels: np.ndarray) -> np.ndarray:
    """A label map minus its erosion, as Detectron2 computes it.

    That is the label where the neighbourhood has a pixel of class 0, else the difference to the
    lowest label there; it is compared between prediction and ground truth. Beyond the image is
    class 0. At most 255 labels.

    Args:
        labels: (H, W) uint8.

    Returns:
        (H, W) uint8.
    """
    diagonal = math.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2)
    distance = max(1, round(BOUNDARY_RATIO * diagonal))
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=distance)
    return labels - eroded[1:-1, 1:-1]


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """(K, K) pixels, rows predicted, columns true, to (K,) in 0..1.

    NaN for a class that is neither predicted nor true.
    """
    correct, true, predicted = class_counts(confusion)
    return _ratio(correct, true + predicted - correct)


def class_counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of each class in (K, K) counts: correct, true, predicted ones; (K,) float64."""
    counted = confusion.astype(np.float64)
    return counted.diagonal(), counted.sum(axis=0), counted.sum(axis=1)


def segmentation_metrics(
    confusion: np.ndarray,
    class_names: Sequence[str],
    boundary_confusion: np.ndarray | None = None,
    absent_classes: str = "left_out",
) -> dict[str, float]:
    """The metrics of Detectron2's SemSegEvaluator, in per cent.

    Pixels whose ground truth is "ignored" do not count. Classes that the ground truth does not show
    have NaN, which does not count in means; for their IoU there is a choice.

    Args:
        confusion: (K + 1, K + 1), rows predicted, columns true, the last of each is "ignored".
        class_names: K names.
        boundary_confusion: the same of boundaries; None leaves boundary IoU out.
        absent_classes: the IoU of a class that the ground truth does not show. "left_out": NaN, as
            Detectron2 has it; "zero_if_predicted": 0 where it was predicted, as mmsegmentation has
            it.

    Returns:
        "mIoU", "fwIoU" (weighted by the classes' frequencies), "mACC", "pACC"; for each class
        "IoU-" and "ACC-" and its name, and of boundaries "BoundaryIoU-" and "min(IoU, B-Iou)-".
    """
    if absent_classes not in ABSENT_CLASSES:
        raise ValueError(f"absent_classes is '{absent_classes}', expected one of {ABSENT_CLASSES}")
    correct, true, _ = class_counts(confusion[:-1, :-1])
    is_present = true > 0
    accuracy = _ratio(correct, true)
    iou = iou_per_class(confusion[:-1, :-1])
    if absent_classes == "left_out":
        iou = np.where(is_present, iou, np.nan)
    frequency = _ratio(true, true.sum())
    metrics = {"mIoU": _mean(iou), "fwIoU": np.sum((iou * frequency)[is_present])}
    boundary_iou = None
    if boundary_confusion is not None:
        boundary_iou = iou_per_class(boundary_confusion[:-1, :-1])
    for index, name in enumerate(class_names):
        metrics[f"IoU-{name}"] = iou[index]
        if boundary_iou is not None:
            metrics[f"BoundaryIoU-{name}"] = boundary_iou[index]
            # Python's min: NaN only if the class is absent, not for want of a boundary.
            metrics[f"min(IoU, B-Iou)-{name}"] = min(iou[index], boundary_iou[index])
    metrics["mACC"] = _mean(accuracy)
    metrics["pACC"] = _ratio(correct.sum(), true.sum())
    metrics.update({f"ACC-{name}": accuracy[i] for i, name in enumerate(class_names)})
    return {name: 100 * float(value) for name, value in metrics.items()}


def image_metrics(confusion: np.ndarray) -> dict[str, float]:
    """ "mIoU" over the classes in the ground truth of one image, and "pACC", in per cent.

    Args:
        confusion: see :func:`segmentation_metrics`. NaN if nothing is labelled.
    """
    correct, true, predicted = class_counts(confusion[:-1, :-1])
    present = true > 0
    iou = _ratio(correct[present], (true + predicted - correct)[present])
    return {"mIoU": 100 * float(_mean(iou)), "pACC": 100 * float(_ratio(correct.sum(), true.sum()))}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; NaN where the whole is 0. Numbers of NumPy will do as well."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> float:
    """The mean of those that are not NaN; NaN of nothing."""
    values = values[~np.isnan(values)]
    return values.mean() if len(values) else np.nan
