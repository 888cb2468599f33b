"""Fill a FeatureBankSegmentor's bank from a labelled dataset: a model without any training.

    d2-ctxseg build-bank --config-file camvid/fcn_efficientnet_lite0_feature_bank.yaml \\
        --output output/bank
    d2-ctxseg eval --run output/bank

The features are those of the config's encoder (MODEL.ENCODER.WEIGHTS) and head, or, with
--weights, of a trained model that has the same ones; the images are those of DATASETS.TRAIN.
MODEL.CLASSIFIER.FEATURE_BANK.SIZE bounds the bank. Written to --output:

    model_final.pth, config.yaml   the model, for evaluation, demos and export
    log.txt

New classes are added to such a model with d2-ctxseg add-classes.
"""

from ...utils.arguments import integer_from
from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model(named=False, runs=False)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--num-images",
        type=integer_from(1),
        metavar="N",
        help="draw this many of the images of DATASETS.TRAIN; without it, all are used",
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="of what is drawn (default: 0)"
    )
    return parser
