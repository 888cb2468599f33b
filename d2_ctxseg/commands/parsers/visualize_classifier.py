"""Draw how a model comes to its predictions: how sure it is, and what its classifier does.

    d2-ctxseg visualize --run output/mymodel --input photos/*.jpg --output views
    d2-ctxseg visualize --run output/mymodel --dataset camvid_sem_seg_val --num-images 6 \\
        --output views --classes Car Tree

FOLDER gets several views of each image, IMAGE_VIEW.png. Images of a dataset are compared with
their labels: there it also shows whether the context-aware classifier changed them for the better.
"""

from ...utils.arguments import integer_from
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="PATH", help="images, folders, or patterns like 'dir/*.jpg'"
    )
    source.add_argument("--dataset", metavar="NAME", help="a registered dataset, with its labels")
    parser.add_argument(
        "--num-images",
        type=integer_from(1),
        default=4,
        help="how many images of the dataset, evenly spread (%(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for the views")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="whose prototypes, Gaussians and masks are drawn (the largest of each prediction)",
    )
    return parser
