#!/usr/bin/env python
"""Compare the classifiers on a GPU with the CPU: agreement, speed, mixed precision, memory.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --repeats 20 --json gpu.json

It prints one table, in float32 and under autocast. Agreement is the relative difference of logits,
losses and the gradient of the features to those on the CPU in float32 (norm of the difference
divided by the norm). If it is above its limit, the exit code is 1. Speed and memory are those of a
training step and of a prediction of each classifier, with ratios to the plain 1x1 convolution in
float32. Calls are interleaved (see benchmarks/classifiers.py). "--device cpu" tests the script.
"""

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from classifiers import IGNORE, SIZES, Size, pixel_inputs
from measurement import Task, describe_environment, measure, usable_device
from reference import (
    ClassByClassContextAware,
    ClassByClassGaussianMixture,
    ClassByClassPrototype,
    Convolution,
)
from tabulate import tabulate
from torch import Tensor, nn

from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY
from d2_ctxseg.utils.errors import UserError, run_command
from d2_ctxseg.utils.files import write_json

# The largest relative difference to float32 on the CPU that rounding can cause. TF32, which cuDNN
# uses in convolutions, rounds to 10 bits like float16; bfloat16 rounds to 7 bits.
LIMITS = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.2}
REFERENCES = {
    "Convolution": Convolution,
    "ClassByClassContextAware": ClassByClassContextAware,
    "ClassByClassPrototype": ClassByClassPrototype,
    "ClassByClassGaussianMixture": ClassByClassGaussianMixture,
}


def candidates() -> dict[str, type[nn.Module]]:
    """The plain convolution, the trainable classifiers, and the reference implementations."""
    own = {cls.__name__: cls for _, cls in CLASSIFIER_REGISTRY if cls.is_trained}
    return {"Convolution": Convolution, **own, **REFERENCES}


def results(module: nn.Module, features: Tensor, labels: Tensor, precision: str) -> list[Tensor]:
    """Logits, losses and the gradient of the features, in float32 on the CPU."""
    device = features.device.type
    leaf = features.detach().requires_grad_()
    with torch.autocast(device, getattr(torch, precision), enabled=precision != "float32"):
        with torch.no_grad():
            logits = module.eval()(features)
        torch.manual_seed(0)
        losses = module.losses(leaf, labels)
    sum(losses.values()).backward()
    module.zero_grad()
    return [x.detach().float().cpu() for x in (logits, torch.stack([*losses.values()]), leaf.grad)]


def disagreement(
    cls: type[nn.Module], size: Size, device: torch.device, precision: str
) -> list[float]:
    """The relative differences of logits, losses and gradient between device and CPU."""
    torch.manual_seed(0)
    features, labels = pixel_inputs(size, size.prototype_channels, torch.device("cpu"))
    on_cpu = cls(size.prototype_channels, size.num_classes, ignore_label=IGNORE)
    on_device = copy.deepcopy(on_cpu).to(device)
    expected = results(on_cpu, features, labels, "float32")
    actual = results(on_device, features.to(device), labels.to(device), precision)
    return [((a - e).norm() / e.norm()).item() for a, e in zip(actual, expected)]


def task(
    name: str, cls: type[nn.Module], size: Size, device: torch.device, precision: str, phase: str
) -> Task:
    """A training step or a prediction of one classifier."""
    features, labels = pixel_inputs(size, size.prototype_channels, device)
    module = cls(size.prototype_channels, size.num_classes, ignore_label=IGNORE).to(device)
    autocast = torch.autocast(
        device.type, getattr(torch, precision), enabled=precision != "float32"
    )

    def predict() -> None:
        with autocast:
            module(features)

    def train() -> None:
        leaf = features.detach().requires_grad_()
        with autocast:
            total = sum(module.losses(leaf, labels).values())
        total.backward()

    call: Callable[[], None] = train if phase == "training" else predict
    return Task(precision, name, phase, module, call)


def main() -> None:
    arguments = parse_arguments()
    device, size = usable_device(arguments.device), SIZES[arguments.size]
    if arguments.repeats < 1:
        raise UserError(f"--repeats is {arguments.repeats}, must be at least 1.")
    rows, tasks = [], []
    for precision in LIMITS:
        for name, cls in candidates().items():
            torch.manual_seed(0)
            pair = [task(name, cls, size, device, precision, p) for p in ("training", "test")]
            tasks += pair
            rows.append((name, precision, disagreement(cls, size, device, precision), pair))
    measure(tasks, arguments.repeats, device)
    environment = describe_environment(device) | {"repeats": arguments.repeats}
    print("\n".join(f"- {key}: {value}" for key, value in environment.items()), "\n")
    print(make_table(rows))
    if arguments.json:
        write_json(arguments.json, {"environment": environment, "rows": [as_json(r) for r in rows]})
    bad = [f"{name} ({p})" for name, p, figures, _ in rows if not max(figures) <= LIMITS[p]]
    if bad:
        print(f"\nDifferences to the CPU above the limit: {', '.join(bad)}")
        sys.exit(1)


def make_table(rows: list[tuple]) -> str:
    """A Markdown table with a row for each classifier and precision."""
    base = [statistics.median(task.seconds) for task in rows[0][3]]
    lines = []
    for name, precision, figures, pair in rows:
        line = [name, precision, *(f"{x:.1e}" for x in figures)]
        for task, seconds in zip(pair, base):
            median = statistics.median(task.seconds)
            line += [
                f"{1000 * median:.2f}",
                f"{median / seconds:.2f}",
                f"{task.memory / 2**20:.0f}",
            ]
        lines.append(line)
    measured = [f"{phase}, {unit}" for phase in ("training", "test") for unit in ("ms", "×", "MiB")]
    headers = ["", "precision", "Δ logits", "Δ losses", "Δ gradient", *measured]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def as_json(row: tuple) -> dict:
    """The results of a row of the table."""
    name, precision, figures, pair = row
    return {
        "classifier": name,
        "precision": precision,
        **dict(zip(("logits", "losses", "gradient"), figures)),
        **{task.phase: {"seconds": task.seconds, "memory": task.memory} for task in pair},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
