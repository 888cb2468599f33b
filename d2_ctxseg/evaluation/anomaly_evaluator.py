"""Evaluate anomaly scores on a dataset with pixels that belong to no class."""

import itertools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data import read_label, register_builtin_datasets
from ..utils.errors import UserError
from ..utils.files import write_json
from .anomaly import ScoreCounts

TASK = "anomaly"

logger = logging.getLogger(__name__)


class AnomalyEvaluator(DatasetEvaluator):
    """AUROC, AP and FPR95 of anomaly scores, in per cent, over all known and unknown pixels.

    The values of known and unknown pixels in the label files are the metadata ``anomaly_ids``,
    'anomaly' in the YAML of a folder dataset.

    Args:
        dataset_name: a registered dataset.
        scores: names of scores; the model's output ``anomaly_{name}`` has each, (H, W) float.
        output_dir: ``results.json`` is written there; None writes nothing.
        weights: the checkpoint's name, to be noted in the results.
        distributed: gather over all workers.

    Raises:
        UserError: the dataset does not say which pixels are unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        scores: Sequence[str],
        *,
        output_dir: str | None = None,
        weights: str = "",
        distributed: bool = True,
    ):
        register_builtin_datasets([dataset_name])
        ids = MetadataCatalog.get(dataset_name).get("anomaly_ids")
        if ids is None:
            raise UserError(
                f"TEST.ANOMALY.SCORES: '{dataset_name}' does not say which pixels are unknown. Add "
                "'anomaly' to its YAML (docs/DATASETS.md), evaluate on a dataset that has it, "
                "such as camvid_withheld_sem_seg_val, or set TEST.ANOMALY.SCORES to []."
            )
        self.dataset_name, self.scores = dataset_name, list(scores)
        self._unknown, self._known = ids
        self._output_dir = Path(output_dir) if output_dir else None
        self._weights = weights
        self._distributed = distributed
        self._label_files = {
            record["file_name"]: record.get("sem_seg_file_name")
            for record in DatasetCatalog.get(dataset_name)
        }

    def reset(self) -> None:
        """Forget all images."""
        self.counts = {name: ScoreCounts() for name in self.scores}
        self._images: set[str] = set()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of one batch.

        Args:
            inputs: dicts with "file_name". An image that was there before is not counted again.
            outputs: dicts with the scores, see the class.

        Raises:
            UserError: a score has another size than the label, or is NaN.
        """
        for input_, output in zip(inputs, outputs):
            file_name = input_["file_name"]
            label_file = self._label_files.get(file_name)
            if label_file is None or file_name in self._images:
                continue
            self._images.add(file_name)
            label = read_label(label_file)
            is_unknown = np.isin(label, self._unknown)
            counted = is_unknown | np.isin(label, self._known)
            for name, counts in self.counts.items():
                score = output[f"anomaly_{name}"].float().cpu().numpy()
                if score.shape != label.shape:
                    raise UserError(
                        f"The anomaly scores of {file_name} have the size {score.shape}, but its "
                        f"label {label_file} has {label.shape} (height, width)."
                    )
                try:
                    counts.add(score[counted], is_unknown[counted])
                except ValueError as error:
                    raise UserError(f"{file_name}, score '{name}': {error}") from error

    def evaluate(self) -> OrderedDict | None:
        """``{"anomaly": {"AUROC-{score}": per cent, ...}}`` on the main process, None on others.

        Raises:
            UserError: two workers were given the same image.
        """
        if self._distributed and comm.get_world_size() > 1:
            self._gather()
            if not comm.is_main_process():
                return None
        if not self._images:
            logger.warning("%s: no image has a label, so no anomaly is evaluated.", TASK)
            return OrderedDict()
        found = {name: counts.metrics() for name, counts in self.counts.items()}
        first = next(iter(self.counts.values()))
        known, unknown = int(first.known.sum()), int(first.unknown.sum())
        if not (known and unknown):
            logger.warning(
                "Anomalies on %s: %d known and %d unknown pixels; there must be some of each.",
                *(self.dataset_name, known, unknown),
            )
        logger.info(
            "Anomalies on %s (%d images, %d known and %d unknown pixels):\n%s",
            *(self.dataset_name, len(self._images), known, unknown),
            format_anomaly_table(found),
        )
        metrics = {f"{m}-{name}": value for name, of in found.items() for m, value in of.items()}
        if self._output_dir:
            content: dict[str, object] = {"dataset": self.dataset_name, "task": TASK}
            content |= {"weights": self._weights}
            content |= {"num_images": len(self._images), "metrics": metrics}
            content |= {"known_pixels": known, "unknown_pixels": unknown}
            write_json(self._output_dir / "results.json", content)
        return OrderedDict({TASK: metrics})

    def _gather(self) -> None:
        images = comm.all_gather(self._images)
        for first, second in itertools.combinations(images, 2):
            if first & second:
                raise UserError(
                    f"Two workers evaluated the image {sorted(first & second)[0]}: it would count "
                    "twice. Use a test loader that gives each image to one worker."
                )
        self._images = set().union(*images)
        for name, counts in self.counts.items():
            gathered = comm.gather(counts)
            if gathered:  # on the main process
                self.counts[name] = sum(gathered[1:], gathered[0])


def format_anomaly_table(metrics: dict[str, dict[str, float]]) -> str:
    """A row for each score with its AUROC, AP and FPR95."""
    rows = [(name, *values.values()) for name, values in metrics.items()]
    headers = ["score", *next(iter(metrics.values()))]
    return tabulate(rows, headers, "pipe", floatfmt=".2f", numalign="right")
