"""Detectron2's evaluator with this project's labels and a table per class."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np

from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from ..data import LabelFormat, check_label_values, read_label
from .results import format_class_table

logger = logging.getLogger(__name__)


def label_loader(dataset_name: str) -> Callable[..., np.ndarray]:
    """A function from a label file to class indices (H, W), as the data set describes it."""
    label_format = LabelFormat.from_metadata(MetadataCatalog.get(dataset_name))
    return partial(_load_label, label_format=label_format)


def _load_label(path: str, dtype=np.int64, *, label_format: LabelFormat) -> np.ndarray:
    label = read_label(path, label_format.label_map)
    check_label_values(label, label_format, path)
    return label.astype(dtype)


class SegmentationEvaluator(SemSegEvaluator):
    """mIoU, fwIoU, mACC, pACC and their values per class, in per cent.

    Args:
        dataset_name: a registered data set with labels.
        task: the name of the results, "sem_seg" or "sem_seg_TTA".
        output_dir: predictions (COCO RLE) and results are written there; None writes nothing.
        distributed: gather over all workers.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        task: str = "sem_seg",
        output_dir: str | None = None,
        distributed: bool = True,
    ):
        super().__init__(
            dataset_name,
            distributed,
            output_dir,
            sem_seg_loading_fn=label_loader(dataset_name),
        )
        self.task = task

    def evaluate(self) -> OrderedDict | None:
        """``{task: {metric: per cent}}`` on the main process, None on the others."""
        results = super().evaluate()
        if results is None:
            return None
        metrics = results["sem_seg"]
        logger.info(
            "%s on %s, per class:\n%s", self.task, self._dataset_name, format_class_table(metrics)
        )
        return OrderedDict({self.task: metrics})
