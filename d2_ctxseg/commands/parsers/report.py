"""Write one HTML file about a run, or about several beside each other.

    d2-ctxseg report output/camvid/fpn_resnet18_context_aware
    d2-ctxseg report output/camvid/linear output/camvid/context_aware --output comparison.html

It shows the training curves, IoU per class, what is confused with what, the worst and the best
images, and single- against multi-scale evaluation. With several runs, the first one is what the
others are compared with. Any browser opens the file; it needs no network.
"""

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__, has_config=False)
    parser.add_runs("OUTPUT_DIR of a run; --run may stand before it")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="an .html file, or a folder for report.html (default: the first run's folder)",
    )
    return parser
