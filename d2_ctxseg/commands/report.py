"""Write one HTML file about a run of train_net.py, or about several beside each other.

    python tools/report.py output/camvid/fpn_resnet18_context_aware
    python tools/report.py output/camvid/linear output/camvid/context_aware --output comparison.html

It shows the training curves, IoU per class, what is confused with what, the worst and the best
images, and single- against multi-scale evaluation. With several runs, the first one is what the
others are compared with. Any browser opens the file; it needs no network.
"""

import argparse

from ..report import write_report
from ..utils.image_files import names_a_file
from ..utils.outputs import check_output_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="an .html file, or a folder for report.html (default: the first run's folder)",
    )
    arguments = parser.parse_args()
    output = arguments.output
    if output is not None and not names_a_file(output, (".html", ".htm")):
        output = f"{output}/report.html"
    if output is not None:
        check_output_file(output, "--output")
    print(f"Report written to {write_report(arguments.runs, output)}")
