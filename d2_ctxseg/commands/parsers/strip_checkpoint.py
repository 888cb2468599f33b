"""Remove from a checkpoint everything that only training needs.

    d2-ctxseg strip --run output/mymodel --output output/model_stripped.pth

The command removes the oracle of the context-aware classifier, the memory of Gaussian mixtures,
auxiliary heads, and the state of optimizer and schedule. Predictions do not change, in evaluation,
demos and code that calls d2_ctxseg.checkpoint.load_weights. The result cannot be trained further.
"""

from pathlib import Path

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    return parser
