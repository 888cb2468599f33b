"""Add classes to a PrototypeSegmentor or FeatureBankSegmentor from a few images, untrained.

    d2-ctxseg add-classes --run output/mymodel --folder mydata.yaml \\
        --images mydata_sem_seg_train --num-images 5 --evaluate mydata_sem_seg_val \\
        --output output/mymodel_extended

The dataset of --images has the model's classes, by the same names and in any order, and new ones.
The new model has the classes of that dataset in its order. Written to --output:

    model_extended.pth, config.yaml   the model, for evaluation and the demos
    evaluation.json, log.txt          IoU per class before and after (with --evaluate)

Before, the pixels of the new classes can only be wrong, at the expense of the old classes' IoU:
the mean over the old classes is given without these pixels, too.
"""

from ...utils.arguments import integer_from
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    for option, metavar, required, text in (
        ("--images", "NAME", True, "registered name of the labelled images"),
        ("--output", "DIR", True, "folder to write to"),
        ("--folder", "YAML", False, "describes the dataset of --images (docs/DATASETS.md)"),
        ("--evaluate", "NAME", False, "dataset on which both models are evaluated"),
    ):
        parser.add_argument(option, required=required, metavar=metavar, help=text)
    parser.add_argument(
        "--num-images",
        type=integer_from(1),
        metavar="N",
        help="draw this many of the images that show a new class; without it, all images are used",
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="of what is drawn (default: 0)"
    )
    return parser
