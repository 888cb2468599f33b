"""A web page on this machine that shows what models see in pictures.

    d2-ctxseg app --model camvid/fpn_efficientnet_lite0_linear
    d2-ctxseg app --run output/linear output/context_aware
    d2-ctxseg app --config-file CONFIG --weights model_final.pth

The page needs no internet and is served to this machine only.
"""

import argparse

from ..command_parser import CommandParser

# Pillow refuses to open larger pictures without being told.
MOST_MEGAPIXELS = 89


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--run", nargs="+", metavar="FOLDER", help="output folders of trainings, a model each"
    )
    models.add_argument(
        "--model", nargs="+", metavar="NAME", help="trained models of d2_ctxseg.model_zoo"
    )
    models.add_argument("--config-file", metavar="FILE", help="config of a single model")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint, with --config-file")
    parser.add_import()
    parser.add_argument(
        "--samples",
        metavar="FOLDER",
        help="images to choose from; without it, a few of the first model's dataset",
    )
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: 7860)")
    parser.add_argument(
        "--max-megapixels",
        type=_megapixels,
        default=20,
        metavar="NUMBER",
        help="larger pictures are refused (default: 20)",
    )
    return parser


def _megapixels(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_MEGAPIXELS:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {MOST_MEGAPIXELS}")
    return value
