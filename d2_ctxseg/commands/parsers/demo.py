"""Draw the predictions of a model on images, a video or a webcam.

    d2-ctxseg demo --model camvid/fpn_efficientnet_lite0_linear --input photos/*.jpg \\
        --output pictures
    d2-ctxseg demo --run output/mymodel --video-input drive.mp4 --output drive_classes.mp4
    d2-ctxseg demo --run output/mymodel --input photos --output pictures --unsure-below 0.7
"""

from ...utils.arguments import share
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="PATH", help="images, folders, or patterns like 'dir/*.jpg'"
    )
    source.add_argument("--video-input", metavar="FILE", help="a video file")
    source.add_argument("--webcam", action="store_true", help="the first webcam, in a window")
    parser.add_argument(
        "--output", metavar="PATH", help="file or folder to write to; without it, a window opens"
    )
    parser.add_argument(
        "-y", "--overwrite", action="store_true", help="overwrite existing files without asking"
    )
    unsure = parser.add_mutually_exclusive_group()
    unsure.add_argument(
        "--unsure-below",
        type=share,
        metavar="CONFIDENCE",
        help="hatch pixels whose confidence is lower, such as 0.7",
    )
    unsure.add_argument(
        "--blank-below",
        type=share,
        metavar="CONFIDENCE",
        help="draw no class for pixels whose confidence is lower",
    )
    return parser
