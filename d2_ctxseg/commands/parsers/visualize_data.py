"""Draw the training inputs of a config: images and labels after augmentation.

    d2-ctxseg visualize-data --config-file camvid/fpn_resnet18_linear --output output/data
    d2-ctxseg visualize-data --config-file CONFIG --output FOLDER INPUT.CROP.SIZE "[256, 256]"

An overlay of each image is written to FOLDER, and all of them to sheet.png. Ignored pixels are
hatched.
"""

from pathlib import Path

from ...utils.arguments import integer_from
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model(named=False, weights=False)
    parser.add_argument("--output", type=Path, required=True, help="folder for the overlays")
    parser.add_argument("--num-images", type=integer_from(1), default=12, help="(%(default)s)")
    parser.add_argument("--seed", type=integer_from(0), default=0, help="seed of the sampling")
    return parser
