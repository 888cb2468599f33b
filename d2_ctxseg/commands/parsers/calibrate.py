"""Fit the temperature that calibrates a model's confidences, and store it beside the weights.

    d2-ctxseg calibrate --run output/mymodel --dataset mydata_sem_seg_val
    d2-ctxseg calibrate --config-file CONFIG --weights model_final.pth TEST.AUG.ENABLED True

The temperature is written to WEIGHTS.temperature.json (model_final.temperature.json). The commands
eval, demo, app and export use it. It changes confidences, but no predicted class. With
TEST.AUG.ENABLED True, a separate temperature is fitted for test-time augmentation.

The model must not be trained on the dataset, and should not be tested on it.
"""

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="a registered dataset with labels (default: the first of DATASETS.TEST)",
    )
    return parser
