"""Write an HTML report about a run, or a comparison of several runs.

    d2-ctxseg report output/camvid/fpn_resnet18_context_aware
    d2-ctxseg report output/camvid/linear output/camvid/context_aware --output comparison.html

It shows training curves, IoU per class, confusions between classes, the worst and the best images,
and single- and multi-scale evaluation. Several runs are compared with the first one. The file opens
in any browser without a network.
"""

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__, has_config=False)
    parser.add_runs("OUTPUT_DIR of a run; --run before it is optional")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="an .html file, or a folder for report.html (default: the first run's folder)",
    )
    return parser
