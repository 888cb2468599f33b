"""Serve a web page on this machine that shows the predictions of models on images.

    d2-ctxseg app --model camvid/fpn_efficientnet_lite0_linear
    d2-ctxseg app --run output/linear output/context_aware
    d2-ctxseg app --config-file CONFIG --weights model_final.pth

The page needs no internet, and only this machine can open it.
"""

import argparse

from ..command_parser import CommandParser

# Pillow's default limit for images.
MOST_MEGAPIXELS = 89


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--run", nargs="+", metavar="FOLDER", help="output folders of trainings, one per model"
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
        help="sample images to choose from (default: a few of the first model's dataset)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port of the page (default: 7860)")
    parser.add_argument(
        "--max-megapixels",
        type=_megapixels,
        default=20,
        metavar="NUMBER",
        help="the page rejects larger images (default: 20)",
    )
    return parser


def _megapixels(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_MEGAPIXELS:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {MOST_MEGAPIXELS}")
    return value
