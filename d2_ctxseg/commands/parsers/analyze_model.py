"""Say what the model of a config costs, before it is trained.

    d2-ctxseg analyze --config-file camvid/fpn_resnet18_context_aware
    d2-ctxseg analyze --config-file CONFIG --tasks speed memory --repeats 50
    d2-ctxseg analyze --config-file CONFIG --json MODEL.SEM_SEG_HEAD.NUM_CLASSES 847

Tasks:
  parameters  of the whole model and its modules; prototypes are no parameters
  flops       multiply-adds of one image, a multiplication and an addition counted as one
  speed       time of one prediction on MODEL.DEVICE
  memory      peak of one prediction and of one training step on MODEL.DEVICE
  structure   the modules with their parameters
  loader      whether a training waits for its data or for the model, and DATALOADER.NUM_WORKERS

Images have the size of the training crop, or --input-size. Weights are random and none are fetched;
only the task loader needs the dataset on the disk. Sliding windows are switched off. With --json,
standard output is one JSON object and nothing else.
"""

import argparse

from ...utils.arguments import integer_from
from ...utils.errors import suggest
from ..command_parser import CommandParser

TASKS = ("parameters", "flops", "speed", "memory", "structure", "loader")
# These take seconds, and no memory to speak of, for a model of any size.
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
        help="of the images",
    )
    parser.add_argument(
        "--repeats", type=integer_from(1), default=20, help="predictions timed (default: 20)"
    )
    parser.add_argument(
        "--batch-size",
        type=integer_from(1),
        default=2,
        help="images of the training step (default: 2)",
    )
    return parser


def _task(name: str) -> str:
    if name not in TASKS:
        raise argparse.ArgumentTypeError(
            f"there is no '{name}'; there are {', '.join(TASKS)}.{suggest(name, TASKS)}"
        )
    return name
