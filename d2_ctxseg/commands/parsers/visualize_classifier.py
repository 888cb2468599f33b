"""Visualise the confidence of a model and the internals of its classifier.

    d2-ctxseg visualize --run output/mymodel --input photos/*.jpg --output views
    d2-ctxseg visualize --run output/mymodel --dataset camvid_sem_seg_val --num-images 6 \\
        --output views --classes Car Tree

Several views of each image are written to FOLDER as IMAGE_VIEW.png. For images of a dataset, the
views also show whether the changes of the context-aware classifier agree with the labels.
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
        help="number of images, evenly spaced in the dataset (%(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the views")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="draw prototypes, Gaussians and masks of these classes (default: the most frequent)",
    )
    return parser
