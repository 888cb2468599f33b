"""Fit the temperature that makes a model's confidences true, and keep it beside its weights.

    d2-ctxseg calibrate --run output/mymodel --dataset mydata_sem_seg_val
    d2-ctxseg calibrate --config-file CONFIG --weights model_final.pth TEST.AUG.ENABLED True

It is written to WEIGHTS.temperature.json (model_final.temperature.json) and used from then on by
eval, demo, app and export. It changes how sure the model says it is, and no predicted class. With
TEST.AUG.ENABLED True the average over the views gets a temperature of its own.

The dataset must be one that the model was not trained on, and not the one it is tested on.
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
