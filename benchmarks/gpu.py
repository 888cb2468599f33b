#!/usr/bin/env python
"""What a machine with a GPU can tell: agreement with the CPU, speed, mixed precision, memory.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --repeats 20 --json gpu.json

One table. Agreement: logits, losses and the gradient of the features against the CPU's in float32,
as the norm of the difference over the norm, under autocast as well. Speed and memory:
training step and prediction of each classifier, in float32 and under autocast, as ratios to the
plain 1x1 convolution in float32; calls take turns (see benchmarks/classifiers.py). A figure of
agreement above its limit makes the exit code 1. "--device cpu" tries the script itself.
"""

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from classifiers import IGNORE, SIZES, Size, pixel_inputs, usable_device
from measurement import Task, describe_environment, measure
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

# The relative difference to the CPU's float32 that rounding explains. TF32, which cuDNN
# allows itself in convolutions, rounds to 10 bits as float16 does; bfloat16 to 7.
LIMITS = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.2}
REFERENCES = {
    "Convolution": Convolution,
    "ClassByClassContextAware": ClassByClassContextAware,
    "ClassByClassPrototype": ClassByClassPrototype,
    "ClassByClassGaussianMixture": ClassByClassGaussianMixture,
}


def contenders() -> dict[str, type[nn.Module]]:
    """The plain convolution first, the classifiers that are trained, the class-by-class ways."""
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
    """Of logits, losses and gradient: the norm of the difference over the norm."""
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
        for name, cls in contenders().items():
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
        print(f"\nFurther from the CPU than rounding explains: {', '.join(bad)}")
        sys.exit(1)


def make_table(rows: list[tuple]) -> str:
    """Markdown: one row for each classifier and precision."""
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
    """What a row of the table is made of."""
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
