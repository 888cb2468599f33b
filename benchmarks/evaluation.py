#!/usr/bin/env python3
"""Compare time and memory of the evaluation with Detectron2's evaluator and torchmetrics.

    python benchmarks/evaluation.py --repeats 9 --threads 2
    python benchmarks/evaluation.py --device cuda

It prints two kinds of tables. "Label maps": from logits at the resolution of a head to the class of
each pixel of the image, with F.interpolate and argmax, and in bands. "Evaluators": the comparison
of one image's label map with its label file. Detectron2's evaluator also gets the label map, so the
time excludes its argmax over the scores; boundary IoU is off. Its row needs an installed
Detectron2. The row of torchmetrics needs: pip install torchmetrics
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from measurement import Task, describe_environment, measure
from tabulate import tabulate
from torch import nn

from d2_ctxseg.evaluation import SegmentationEvaluator
from d2_ctxseg.evaluation.confusion import confusion_matrix, smallest_label_type
from d2_ctxseg.modeling.inference.scores import Logits, Resized
from d2_ctxseg.utils.errors import run_command
from d2_ctxseg.utils.runtime import describe_runtime
from detectron2.data import DatasetCatalog, MetadataCatalog

try:
    from detectron2.evaluation import SemSegEvaluator
except ImportError:  # the embedded runtime
    SemSegEvaluator = None
try:
    from torchmetrics.classification import MulticlassConfusionMatrix
except ImportError:
    MulticlassConfusionMatrix = None

# (classes, height, width) of the images. Heads predict at a quarter of the resolution.
CASES = ((150, 512, 683), (19, 1024, 2048))
MANY_CLASSES = (847, 1024, 2048)
STRIDE = 4
PATCH = 48
IGNORE_LABEL = 255


class LabelMapAsScores:
    """A label map in place of scores, with an argmax that takes no time."""

    def __init__(self, labels: torch.Tensor):
        self.labels = labels

    def argmax(self, dim: int) -> torch.Tensor:
        """The label map."""
        return self.labels


def label_map_tasks(num_classes: int, height: int, width: int, device) -> list[Task]:
    """The two computations of a label map from logits."""
    logits = torch.randn(num_classes, -(-height // STRIDE), -(-width // STRIDE), device=device)
    table = f"Label maps: {num_classes} classes, {height} x {width}"

    def unfused():
        resized = F.interpolate(logits[None], (height, width), mode="bilinear")
        return resized[0].argmax(0)

    def fused():
        return Resized(Logits(logits), (height, width)).label_map()

    if num_classes < MANY_CLASSES[0] and not torch.equal(unfused(), fused()):
        raise AssertionError("the label maps differ")
    ways = {"F.interpolate, argmax": unfused, "in bands": fused}
    return [Task(table, name, "test", nn.Identity(), call) for name, call in ways.items()]


def evaluator_tasks(num_classes: int, height: int, width: int, folder: Path) -> list[Task]:
    """The evaluation of one image by each evaluator."""
    generator = np.random.default_rng(0)
    prediction = patches(generator, num_classes, height, width)
    ground_truth = np.where(
        generator.random((height, width)) < 0.02,
        IGNORE_LABEL,
        np.where(prediction % 3 > 0, prediction, patches(generator, num_classes, height, width)),
    ).astype(np.uint8)
    name, label_file = f"benchmark_{num_classes}", str(folder / f"{num_classes}.png")
    if not cv2.imwrite(label_file, ground_truth):
        raise OSError(f"cannot write {label_file}")
    record = {"file_name": "image", "sem_seg_file_name": label_file}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(
        stuff_classes=[str(i) for i in range(num_classes)], ignore_label=IGNORE_LABEL
    )
    ours = SegmentationEvaluator(name, distributed=False)
    labels = torch.from_numpy(prediction).long()

    def evaluate():
        ours.reset()  # otherwise the image would not be counted again
        ours.process([record], [{"label_map": labels}])

    calls = {}
    if SemSegEvaluator is not None:
        theirs = SemSegEvaluator(name, distributed=False)
        theirs._compute_boundary_iou = False
        theirs.reset()
        scores = [{"sem_seg": LabelMapAsScores(labels)}]
        calls["SemSegEvaluator"] = lambda: theirs.process([record], scores)
    calls["SegmentationEvaluator"] = evaluate
    calls["confusion_matrix alone"] = counting(prediction, ground_truth, num_classes)
    if MulticlassConfusionMatrix is not None:
        metric = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE_LABEL)
        target = torch.from_numpy(ground_truth).long()
        calls["torchmetrics alone"] = lambda: metric.update(labels, target)
    table = f"Evaluators: {num_classes} classes, {height} x {width}"
    return [Task(table, way, "test", nn.Identity(), call) for way, call in calls.items()]


def counting(prediction: np.ndarray, ground_truth: np.ndarray, num_classes: int):
    """A function that computes the confusion matrix of a predicted and a true label map."""
    dtype = smallest_label_type(num_classes)

    def call():
        labels = ground_truth.copy()
        labels[labels == IGNORE_LABEL] = num_classes
        confusion_matrix(prediction.astype(dtype), labels.astype(dtype, copy=False), num_classes)

    return call


def patches(generator, num_classes: int, height: int, width: int) -> np.ndarray:
    """Random class indices (H, W) int64, constant in squares of PATCH pixels."""
    grid = generator.integers(0, num_classes, (-(-height // PATCH), -(-width // PATCH)))
    return np.kron(grid, np.ones((PATCH, PATCH), np.int64))[:height, :width]


def format_tables(tasks: list[Task]) -> str:
    """The medians and their ratios to the first row of each table, as Markdown."""
    lines = []
    for table in dict.fromkeys(task.table for task in tasks):
        rows = [task for task in tasks if task.table == table]
        first = np.median(rows[0].seconds)
        cells = []
        for task in rows:
            seconds = np.median(task.seconds)
            memory = f"{task.memory / 2**20:.1f}"
            cells.append([task.name, f"{1e3 * seconds:.1f}", f"{seconds / first:.2f}", memory])
        headers = ["", "ms", "× first row", "MiB of tensors"]
        text = tabulate(cells, headers, "github", disable_numparse=True)
        lines.append(f"{table}\n\n{text}")
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, help="(%(default)s)")
    parser.add_argument(
        "--threads", type=int, help="threads of PyTorch and OpenCV (default: their own)"
    )
    parser.add_argument("--device", default="cpu", help="device of the label maps (%(default)s)")
    parser.add_argument(
        "--many-classes", action="store_true", help="measure 847 classes as well (9 GB)"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        cases = CASES + (MANY_CLASSES,) * arguments.many_classes
        tasks = [task for case in cases for task in label_map_tasks(*case, device)]
        tasks += [task for case in CASES for task in evaluator_tasks(*case, Path(folder))]
        measure(tasks, arguments.repeats, device)
    environment = ", ".join(f"{k} {v}" for k, v in describe_environment(device).items())
    print(f"{environment}\n{describe_runtime()}\n\n{format_tables(tasks)}")


if __name__ == "__main__":
    run_command(main)
