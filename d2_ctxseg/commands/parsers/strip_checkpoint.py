"""Take out of a checkpoint what only training needs.

    d2-ctxseg strip --run output/mymodel --output output/model_stripped.pth

Left out are the context-aware classifier's oracle, the memory of Gaussian mixtures, auxiliary
heads, and the state of optimizer and schedule. The result predicts exactly as before, in
evaluation, the demos and any code that calls d2_ctxseg.checkpoint.load_weights; it cannot be
trained further.
"""

from pathlib import Path

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    return parser
