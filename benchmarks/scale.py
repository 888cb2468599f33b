#!/usr/bin/env python
"""Measure time and memory of every classifier against the number of classes.

    python benchmarks/scale.py
    python benchmarks/scale.py --classes 150 10000 --only PrototypeClassifier --plot scale.png

The input is one image: features (1, 128, 32, 32), blockwise labels (1, 128, 128) with 20 classes.
"Test" is the forward pass without gradients. "Training" is forward pass, losses and backward pass.
Calls are interleaved in random order. The tables show medians, and memory as in
benchmarks/classifiers.py. "Growth" is the ratio of the last value to the first, divided by the
ratio of the numbers of classes. At most 1 means that the cost grows at most linearly.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from measurement import Task, describe_environment, measure
from tabulate import tabulate
from torch import Tensor, nn

from d2_ctxseg.classifiers import (
    ContextAwareClassifier,
    ExplicitClassClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from d2_ctxseg.utils.errors import UserError, run_command, suggest
from d2_ctxseg.utils.files import write_json

CHANNELS, FEATURE_SIDE, LABEL_SIDE, CLASSES_PRESENT = 128, 32, 128, 20
IGNORE = 65535
CANDIDATES = {
    "LinearClassifier": LinearClassifier,
    "ContextAwareClassifier": ContextAwareClassifier,
    "SemanticSpatialClassifier": SemanticSpatialClassifier,
    "ExplicitClassClassifier": ExplicitClassClassifier,
    "PrototypeClassifier, M = 1": partial(PrototypeClassifier, num_prototypes=1),
    "PrototypeClassifier, M = 10": partial(PrototypeClassifier, num_prototypes=10),
    "LearnedPrototypeClassifier, M = 1": partial(LearnedPrototypeClassifier, num_prototypes=1),
    "LearnedPrototypeClassifier, M = 10": partial(LearnedPrototypeClassifier, num_prototypes=10),
    "GaussianMixtureClassifier, M = 1": partial(
        GaussianMixtureClassifier, num_components=1, memory_size=100
    ),
    "GaussianMixtureClassifier, M = 10": partial(
        GaussianMixtureClassifier, num_components=10, memory_size=100
    ),
}


def make_inputs(num_classes: int) -> tuple[Tensor, Tensor]:
    """Features (1, C, h, w) float32 and labels (1, H, W) int64; one block in 16 is ignored."""
    features = torch.randn(1, CHANNELS, FEATURE_SIDE, FEATURE_SIDE)
    classes = torch.randperm(num_classes)[:CLASSES_PRESENT]
    blocks = classes[torch.randint(len(classes), (1, 16, 16))]
    blocks[torch.rand(blocks.shape) < 1 / 16] = IGNORE
    side = LABEL_SIDE // 16
    return features, blocks.repeat_interleave(side, 1).repeat_interleave(side, 2)


def make_tasks(name: str, num_classes: int) -> list[Task]:
    """The test and the training call of one candidate at one number of classes."""
    features, labels = make_inputs(num_classes)
    module: nn.Module = CANDIDATES[name](CHANNELS, num_classes, ignore_label=IGNORE)

    def train() -> None:
        leaf = features.detach().requires_grad_()
        sum(module.losses(leaf, labels).values()).backward()

    key = str(num_classes)
    return [
        Task(key, name, "test", module, lambda: module(features)),
        Task(key, name, "training", module, train),
    ]


def growth(values: list[float], classes: list[int]) -> float:
    """The growth of a value relative to that of the number of classes; 1 is linear growth."""
    return (values[-1] / values[0]) / (classes[-1] / classes[0])


def make_table(tasks: list[Task], phase: str, classes: list[int]) -> str:
    """Milliseconds and MiB of each candidate, with a column per number of classes, as Markdown."""
    found = {(task.name, task.table): task for task in tasks if task.phase == phase}
    rows = []
    for name in dict.fromkeys(task.name for task in tasks):
        mine = [found[name, str(k)] for k in classes]
        seconds = [statistics.median(task.seconds) for task in mine]
        memory = [task.memory for task in mine]
        row = [f"{1000 * s:.1f} / {m / 2**20:.0f}" for s, m in zip(seconds, memory)]
        rows.append(
            [name, *row, f"{growth(seconds, classes):.2f}", f"{growth(memory, classes):.2f}"]
        )
    headers = [
        f"{phase}, ms / MiB",
        *(f"K = {k:,}" for k in classes),
        "growth of time",
        "of memory",
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def draw(tasks: list[Task], classes: list[int], path: Path) -> None:
    """Plot time and memory against the number of classes, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    names = list(dict.fromkeys(task.name for task in tasks))
    for index, name in enumerate(names):
        mine = [task for task in tasks if task.name == name and task.phase == "training"]
        style = {"marker": "osv^D"[index % 5], "linestyle": "--" if "M = 10" in name else "-"}
        ms = [1000 * statistics.median(task.seconds) for task in mine]
        axes[0].plot(classes, ms, label=name, color=f"C{index}", **style)
        axes[1].plot(classes, [task.memory / 2**20 for task in mine], color=f"C{index}", **style)
    for axis, label in zip(axes, ("training step, ms", "peak memory of a training step, MiB")):
        axis.set(xscale="log", yscale="log", xlabel="classes", ylabel=label)
        axis.set_xticks(classes, [f"{k:,}" for k in classes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[150, 847, 3000, 10000])
    parser.add_argument("--only", nargs="+", default=list(CANDIDATES), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot training time and memory")
    arguments = parser.parse_args()
    classes = sorted(set(arguments.classes))
    if classes[0] < CLASSES_PRESENT or classes[-1] >= IGNORE or len(classes) < 2:
        raise UserError(
            f"--classes: expected two or more numbers from {CLASSES_PRESENT} to {IGNORE - 1}."
        )
    for name in arguments.only:
        if name not in CANDIDATES:
            raise UserError(
                f"--only: unknown name '{name}', expected one of {', '.join(CANDIDATES)}."
                f"{suggest(name, CANDIDATES)}"
            )
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cpu")
    tasks = []
    for name in arguments.only:  # one candidate at a time, because all would not fit in memory
        mine = [task for k in classes for task in make_tasks(name, k)]
        measure(mine, arguments.repeats, device)
        tasks += [Task(t.table, t.name, t.phase, None, None, t.seconds, t.memory) for t in mine]
    environment = describe_environment(device) | {"repeats": arguments.repeats}
    print("\n".join(f"- {key}: {value}" for key, value in environment.items()))
    for phase in ("test", "training"):
        print(f"\n{make_table(tasks, phase, classes)}")
    if arguments.json:
        keys = ("table", "name", "phase", "seconds", "memory")
        calls = [{key: getattr(task, key) for key in keys} for task in tasks]
        write_json(arguments.json, {"environment": environment, "calls": calls})
    if arguments.plot:
        draw(tasks, classes, arguments.plot)


if __name__ == "__main__":
    run_command(main)
