"""A training hook that draws predictions."""

import copy
import logging
import os
from collections.abc import Callable

import numpy as np
import torch

from detectron2.engine import HookBase
from detectron2.evaluation.evaluator import inference_context

from ..data.images import read_display_image
from ..modeling.inference.test_time_augmentation import image_scores
from ..utils.png import write_png
from ..visualization import draw_comparison

logger = logging.getLogger(__name__)


class PredictionOverlays(HookBase):
    """Draws image, ground truth and prediction of a few test images at each evaluation.

    The overlays are written to ``{output_dir}/overlays/`` and, with the event storage, to
    TensorBoard.

    Args:
        period: iterations between two drawings; 0: only at the end of training.
        model: a semantic segmentor, not wrapped for distributed training.
        mapper: maps a record of the dataset to the model's input.
        records: the records to draw, with "file_name" and "sem_seg_file_name".
        load_labels: reads a label file as an integer array (H, W).
        metadata: the dataset's metadata: class names, colours, ignore label.
        output_dir: the run's folder.
    """

    def __init__(
        self,
        period: int,
        model: torch.nn.Module,
        mapper: Callable[[dict], dict],
        records: list[dict],
        load_labels: Callable[[str], np.ndarray],
        metadata,
        output_dir: str,
    ):
        self.period = period
        self.model = model
        self.mapper = mapper
        self.records = records
        self.load_labels = load_labels
        self.metadata = metadata
        self.folder = os.path.join(output_dir, "overlays")

    def after_step(self) -> None:
        """Draw every ``period`` iterations, except after the last iteration."""
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self._draw(done)

    def after_train(self) -> None:
        """Draw the predictions of the trained model, unless training was stopped early."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._draw(self.trainer.max_iter)

    def _draw(self, iteration: int) -> None:
        with inference_context(self.model), torch.no_grad():
            for number, record in enumerate(self.records):
                overlay = self._overlay(record)
                path = os.path.join(self.folder, f"{iteration:07d}_{number}.png")
                write_png(path, overlay)
                self.trainer.storage.put_image(f"overlay_{number}", overlay.transpose(2, 0, 1))
        logger.info("Drew the overlays of %d images to %s", len(self.records), self.folder)

    def _overlay(self, record: dict) -> np.ndarray:
        (scores,) = image_scores(self.model, [self.mapper(copy.copy(record))])
        return draw_comparison(
            read_display_image(record["file_name"], record.get("value_range")),
            self.load_labels(record["sem_seg_file_name"]),
            scores.label_map().cpu().numpy(),
            self.metadata,
        )
