"""Publish the model of a finished training in the model zoo.

    d2-ctxseg publish output/camvid/fpn_efficientnet_lite0_linear \\
        --name camvid/fpn_efficientnet_lite0_linear --output d2_ctxseg/model_zoo/trained

The command removes modules that only training needs, writes the weights in half precision, compares
the outputs with the original's on random images, adds the model to the folder's index (models.yaml)
and writes a model card. A model of the same name is replaced.
"""

from pathlib import Path

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__, has_config=False)
    parser.add_runs("OUTPUT_DIR of the training; --run before it is optional")
    parser.add_argument("--name", required=True, help="config to publish it for, below configs/")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="folder for the files"
    )
    parser.add_argument(
        "--weights",
        default="model_final.pth",
        metavar="FILE",
        help="checkpoint in RUN with scores in evaluation.json (default: %(default)s)",
    )
    parser.add_argument(
        "--commit", default="", help="commit of this project that trained the run, for the card"
    )
    parser.add_argument(
        "--data-terms", default="", metavar="TEXT", help="terms of use of the data, for the card"
    )
    parser.add_argument(
        "--max-megabytes", type=float, default=12, metavar="NUMBER", help="(default: %(default)s)"
    )
    return parser
