#!/usr/bin/env python3
"""Measure whole models side by side: a training step and a prediction of each config.

    python benchmarks/configs.py camvid/fpn_efficientnet_lite0_linear \\
        camvid/fpn_efficientnet_lite0_context_aware --batch-size 8 --repeats 9 --threads 1

A training step is forward and backward, without the optimizer, on random images and labels of the
size of the config's training crop; a prediction is that of one image. Weights are random. The calls
of all models alternate in one process; the table has medians and their ratios to the first config.
"""

import argparse
import statistics

import torch
from measurement import Task, describe_environment, measure, usable_device
from tabulate import tabulate

from d2_ctxseg.deployment.analysis import input_size, random_inputs
from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.arguments import integer_from
from d2_ctxseg.utils.errors import UserError, run_command
from detectron2.modeling import build_model

MIB = 2**20


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="names or files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=integer_from(1), default=8, help="(%(default)s)")
    parser.add_argument("--repeats", type=integer_from(1), default=9, help="(%(default)s)")
    parser.add_argument("--threads", type=integer_from(1), help="CPU threads of PyTorch")
    return parser.parse_args()


def build_tasks(name: str, device: str, batch_size: int) -> list[Task]:
    """The training step and the prediction of a config's model."""
    opts = ["MODEL.DEVICE", device, "SOLVER.AMP.ENABLED", "False"]
    cfg = setup_config(name, opts, for_inference=True)
    model = build_model(cfg).to(memory_format=torch.channels_last)
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    batch = random_inputs(model, input_size(cfg)[:2], batch_size, num_classes)
    return [
        Task("configs", name, "training", model, lambda: sum(model(batch).values()).backward()),
        Task("configs", name, "test", model, lambda: model(batch[:1])),
    ]


def make_table(tasks: list[Task]) -> str:
    """One row for each config."""
    rows, first = {}, {}
    for task in tasks:
        median = statistics.median(task.seconds)
        first.setdefault(task.phase, median)
        row = rows.setdefault(task.name, [task.name])
        row += [1000 * median, median / first[task.phase], task.memory / MIB]
    headers = ["config", "training step, ms", "×", "MiB", "prediction, ms", "×", "MiB"]
    formats = ("", ".0f", ".2f", ".0f", ".0f", ".2f", ".0f")
    return tabulate(rows.values(), headers, tablefmt="github", floatfmt=formats)


def main() -> None:
    arguments = parse_arguments()
    if len(set(arguments.configs)) < len(arguments.configs):
        raise UserError("A config is named twice.")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = usable_device(arguments.device)
    torch.manual_seed(0)
    tasks = [
        task
        for name in arguments.configs
        for task in build_tasks(name, arguments.device, arguments.batch_size)
    ]
    measure(tasks, arguments.repeats, device)
    for key, value in describe_environment(device).items():
        print(f"- {key}: {value}")
    print(f"\nBatch size {arguments.batch_size}.\n\n{make_table(tasks)}")


if __name__ == "__main__":
    run_command(main)
