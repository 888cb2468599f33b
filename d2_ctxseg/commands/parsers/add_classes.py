"""Add classes to a PrototypeSegmentor or FeatureBankSegmentor from a few images, without training.

    d2-ctxseg add-classes --run output/mymodel --folder mydata.yaml \\
        --images mydata_sem_seg_train --num-images 5 --evaluate mydata_sem_seg_val \\
        --output output/mymodel_extended

The dataset of --images has the model's classes, under the same names in any order, and new classes.
The new model has the classes of that dataset in its order. These files are written to --output:

    model_extended.pth, config.yaml   the model, for evaluation and the demos
    evaluation.json, log.txt          IoU per class before and after (with --evaluate)

The original model misclassifies all pixels of new classes, which lowers the IoU of the old classes.
Therefore the mean over the old classes is also given without these pixels.
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
        ("--folder", "YAML", False, "description of the dataset of --images (docs/DATASETS.md)"),
        ("--evaluate", "NAME", False, "dataset to evaluate both models on"),
    ):
        parser.add_argument(option, required=required, metavar=metavar, help=text)
    parser.add_argument(
        "--num-images",
        type=integer_from(1),
        metavar="N",
        help="sample this many images that show a new class (default: use all images)",
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="seed of the sampling (default: 0)"
    )
    return parser
