"""Train a model, and evaluate it on DATASETS.TEST.

    d2-ctxseg train --config-file quickstart
    d2-ctxseg train --config-file CONFIG --num-gpus 8 SOLVER.MAX_ITER 40000
    d2-ctxseg train --run output/mymodel        (continue an interrupted training)
    torchrun --nproc-per-node 8 -m d2_ctxseg_cli train --config-file CONFIG

All files are written to OUTPUT_DIR.
"""

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line; the options are those of Detectron2's ``default_argument_parser``."""
    parser = CommandParser(__doc__)
    # Without a config, Detectron2's defaults are used.
    parser.add_model(named=False, required=False)
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS without training"
    )
    add_launch_arguments(parser)
    return parser


def add_launch_arguments(parser: CommandParser) -> None:
    """Add the options that training and evaluation share: processes and saved predictions."""
    parser.add_argument(
        "--save-predictions",
        action="store_true",
        help="write predictions as label images and COCO RLE (TEST.SAVE_PREDICTIONS)",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="GPUs (or processes) per machine"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="N", help="rank of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="rendezvous address of the processes"
    )
