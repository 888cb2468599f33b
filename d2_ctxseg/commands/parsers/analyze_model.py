"""Measure the cost of a config's model: parameters, multiply-adds, speed and memory.

    d2-ctxseg analyze --config-file camvid/fpn_resnet18_context_aware
    d2-ctxseg analyze --config-file CONFIG --tasks speed memory --repeats 50
    d2-ctxseg analyze --config-file CONFIG --json MODEL.SEM_SEG_HEAD.NUM_CLASSES 847

Tasks:
  parameters  parameters of the model and its modules; prototypes are not parameters
  flops       multiply-adds for one image, a multiplication and an addition counted as one
  speed       time of one prediction on MODEL.DEVICE
  memory      peak memory of one prediction and of one training step on MODEL.DEVICE
  structure   the module tree with parameters
  loader      whether data loading or the model is the bottleneck, and DATALOADER.NUM_WORKERS

Images have the size of the training crop, or --input-size. Weights are random and not downloaded.
Only the task loader needs the dataset on disk. Sliding windows are disabled. With --json, the
standard output is a single JSON object.
"""

import argparse

from ...utils.arguments import integer_from
from ...utils.errors import suggest
from ..command_parser import CommandParser

TASKS = ("parameters", "flops", "speed", "memory", "structure", "loader")
# These take seconds and little memory for a model of any size.
QUICK_TASKS = ("parameters", "flops")


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model(weights=False)
    parser.add_argument(
        "--tasks",
        nargs="+",
        type=_task,
        default=list(QUICK_TASKS),
        metavar="TASK",
        help=f"some of: {' '.join(TASKS)} (default: {' '.join(QUICK_TASKS)})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=integer_from(1),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images",
    )
    parser.add_argument(
        "--repeats", type=integer_from(1), default=20, help="timed predictions (default: 20)"
    )
    parser.add_argument(
        "--batch-size",
        type=integer_from(1),
        default=2,
        help="images per training step (default: 2)",
    )
    return parser


def _task(name: str) -> str:
    if name not in TASKS:
        raise argparse.ArgumentTypeError(
            f"unknown task '{name}', expected one of {', '.join(TASKS)}.{suggest(name, TASKS)}"
        )
    return name
