"""Evaluate a trained model on DATASETS.TEST.

    d2-ctxseg eval --run output/mymodel
    d2-ctxseg eval --config-file CONFIG --weights model_final.pth OUTPUT_DIR output/evaluation
    d2-ctxseg eval --model camvid/fpn_efficientnet_lite0_linear TEST.AUG.ENABLED True

Scores are added to evaluation.json in OUTPUT_DIR, or with --run in the run's folder.
"""

from ..command_parser import CommandParser
from .train_net import add_launch_arguments


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    add_launch_arguments(parser)
    parser.set_defaults(eval_only=True, resume=False)
    return parser
