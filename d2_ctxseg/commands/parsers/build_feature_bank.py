"""Fill the bank of a FeatureBankSegmentor from a labelled dataset, without training.

    d2-ctxseg build-bank --config-file camvid/fcn_efficientnet_lite0_feature_bank.yaml \\
        --output output/bank
    d2-ctxseg eval --run output/bank

The features come from the config's encoder (MODEL.ENCODER.WEIGHTS) and head, or with --weights from
a trained model with the same encoder and head. The images are those of DATASETS.TRAIN.
MODEL.CLASSIFIER.FEATURE_BANK.SIZE limits the bank. These files are written to --output:

    model_final.pth, config.yaml   the model, for evaluation, demos and export
    log.txt

d2-ctxseg add-classes adds classes to such a model.
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
        help="sample this many images of DATASETS.TRAIN (default: use all)",
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="seed of the sampling (default: 0)"
    )
    return parser
