"""Predict images, and write the predictions in the format of an annotation tool.

    d2-ctxseg annotate --run output/mymodel --input photos --format coco --output annotations.json

Formats:
  coco          a COCO file, for FiftyOne, CVAT and others
  label-studio  tasks with predictions; the labelling config is written beside them as .xml
  cvat          annotations.xml, for a CVAT task with images of the same names
  fiftyone      a dataset in FiftyOne with the name --output
"""

from ..command_parser import CommandParser

FORMATS = ("coco", "label-studio", "cvat", "fiftyone")


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, folders, or patterns like 'dir/*.jpg'",
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="output file, or name of FiftyOne's dataset"
    )
    parser.add_argument(
        "--tiles", type=int, metavar="PIXELS", help="predict large images in tiles of this size"
    )
    parser.add_argument(
        "--image-prefix",
        default="",
        metavar="TEXT",
        help="prefix of image URLs in Label Studio, such as '/data/local-files/?d=photos/'",
    )
    parser.add_argument(
        "-y", "--overwrite", action="store_true", help="overwrite existing files without asking"
    )
    return parser
