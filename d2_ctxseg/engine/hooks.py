"""What training does besides the steps: stop on request, draw predictions."""

import copy
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fvcore.common.checkpoint import Checkpointer

from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm

from ..data.images import read_display_image
from ..modeling.inference.test_time_augmentation import image_scores
from ..utils.png import write_png
from ..visualization import draw_comparison

logger = logging.getLogger(__name__)


class CheckpointOnInterrupt(HookBase):
    """Turns Ctrl-C (or SIGTERM) into a checkpoint that ``--resume`` continues.

    The signal only sets a flag; the step under way is finished, so that model, optimizer and
    schedule are saved in one state. With several workers all agree on the step they stop after.
    A second signal ends the program at once.

    Args:
        checkpointer: writes ``model_{iteration:07d}``, on the main process.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, checkpointer: Checkpointer):
        self.checkpointer = checkpointer
        self._received = False
        self._previous_handlers = {}
        self._group = None

    def before_train(self) -> None:
        """Take over the signals; only the main thread of a process may."""
        if comm.get_world_size() > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def after_step(self) -> None:
        """Save and stop, if a signal came on any worker.

        Raises:
            KeyboardInterrupt: after the checkpoint was written.
        """
        if self._requested_by_any_worker():
            self._save(self.trainer.iter)
            raise KeyboardInterrupt

    def after_train(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _on_signal(self, number: int, frame) -> None:
        if self._received:
            signal.signal(number, self._previous_handlers[number])
            signal.raise_signal(number)
        self._received = True

    def _requested_by_any_worker(self) -> bool:
        if self._group is None:
            return self._received
        # On the CPU, so that no stream of a GPU has to be waited for.
        flag = torch.tensor(int(self._received))
        torch.distributed.all_reduce(flag, group=self._group)
        return bool(flag)

    def _save(self, iteration: int) -> None:
        if comm.is_main_process():
            name = f"model_{iteration:07d}"
            self.checkpointer.save(name, iteration=iteration)
            logger.warning(
                "Interrupted after iteration %d; %s is saved. Continue with --resume.",
                iteration,
                os.path.join(self.checkpointer.save_dir, f"{name}.pth"),
            )


class ResumableBestCheckpointer(BestCheckpointer):
    """Detectron2's BestCheckpointer, which does not forget over ``--resume`` how good the best was.

    Otherwise the first evaluation after resuming would overwrite a better ``model_best.pth``.

    Args:
        output_dir: the run's folder, whose ``metrics.json`` tells the earlier evaluations.
        eval_period: iterations between two evaluations.
        checkpointer: writes ``model_best.pth``.
        metric: what is to be largest, for example "sem_seg/mIoU".
    """

    PREFIX = "model_best"

    def __init__(self, output_dir: str, eval_period: int, checkpointer: Checkpointer, metric: str):
        super().__init__(eval_period, checkpointer, metric, file_prefix=self.PREFIX)
        self.output_dir = Path(output_dir)
        self.metric = metric

    def before_train(self) -> None:
        """When resuming, take up the best value so far."""
        history = self.output_dir / "metrics.json"
        best_file = self.output_dir / f"{self.PREFIX}.pth"
        if self.trainer.start_iter == 0 or not (history.exists() and best_file.exists()):
            return
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        scores = [(row[self.metric], row["iteration"]) for row in rows if self.metric in row]
        if scores:
            self.best_metric, self.best_iter = best, iteration = max(scores)
            logger.info("Best %s so far: %.2f at iteration %d", self.metric, best, iteration)


class PredictionOverlays(HookBase):
    """Draws image, truth and prediction of a few test images at each evaluation.

    The pictures go to ``{output_dir}/overlays/`` and, through the event storage, to TensorBoard.

    Args:
        period: iterations between two drawings; 0 draws at the end of training only.
        model: a semantic segmentor, not wrapped for distributed training.
        mapper: from a record of the dataset to the model's input.
        records: the records to draw, with "file_name" and "sem_seg_file_name".
        load_labels: from a label file to labels (H, W).
        metadata: of the dataset: class names, colours, ignore label.
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
        """Draw every ``period`` iterations; the end of training has its own drawing."""
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self._draw(done)

    def after_train(self) -> None:
        """Draw what the trained model predicts, unless training was cut short."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._draw(self.trainer.max_iter)

    def _draw(self, iteration: int) -> None:
        with inference_context(self.model), torch.no_grad():
            for number, record in enumerate(self.records):
                picture = self._picture(record)
                path = os.path.join(self.folder, f"{iteration:07d}_{number}.png")
                write_png(path, picture)
                self.trainer.storage.put_image(f"overlay_{number}", picture.transpose(2, 0, 1))
        logger.info("Drew %d predictions into %s", len(self.records), self.folder)

    def _picture(self, record: dict) -> np.ndarray:
        (scores,) = image_scores(self.model, [self.mapper(copy.copy(record))])
        return draw_comparison(
            read_display_image(record["file_name"], record.get("value_range")),
            self.load_labels(record["sem_seg_file_name"]),
            scores.label_map().cpu().numpy(),
            self.metadata,
        )
