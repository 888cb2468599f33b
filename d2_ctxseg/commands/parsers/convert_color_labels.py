"""Convert label images with colours for classes to label images with class indices.

    d2-ctxseg convert-labels mydata.yaml train --output labels_indexed/train

The colours are those of 'palette' in the YAML. Afterwards, set the new folder in the YAML.
"""

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__, has_config=False)
    parser.add_argument("yaml", help="YAML file of the dataset")
    parser.add_argument("split", help="the split whose labels are converted")
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument(
        "--ignore-color",
        type=parse_color,
        action="append",
        default=[],
        metavar="R,G,B",
        help="colour of pixels without a class; may be repeated",
    )
    return parser


def parse_color(text: str) -> tuple[int, int, int]:
    """Parse "R,G,B"."""
    color = tuple(int(value) for value in text.split(","))
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ValueError(text)
    return color
