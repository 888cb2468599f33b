"""Write an HTML report about a run of train_net.py, or a comparison of several runs."""

import argparse

from ..report import write_report
from ..utils.image_files import names_a_file
from ..utils.outputs import check_output_file


def main(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if output is not None and not names_a_file(output, (".html", ".htm")):
        output = f"{output}/report.html"
    if output is not None:
        check_output_file(output, "--output")
    print(f"Report written to {write_report(arguments.runs, output)}")
