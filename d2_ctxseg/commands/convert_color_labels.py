#!/usr/bin/env python3
"""Turn label images whose colours stand for classes into ones that hold class indices.

    python tools/convert_color_labels.py mydata.yaml train --output labels_indexed/train

The colours are those of 'palette' in the YAML. Afterwards, name the new folder in the YAML.
"""

import argparse

from ..data import convert_color_labels, read_folder_dataset


def parse_color(text: str) -> tuple[int, int, int]:
    """ "R,G,B" as numbers."""
    color = tuple(int(value) for value in text.split(","))
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ValueError(text)
    return color


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("yaml", help="YAML file of the dataset")
    parser.add_argument("split", help="the split whose labels are converted")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument(
        "--ignore-color",
        type=parse_color,
        action="append",
        default=[],
        metavar="R,G,B",
        help="colour of pixels of no class; may be given several times",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    dataset = read_folder_dataset(arguments.yaml)
    number = convert_color_labels(
        dataset, arguments.split, arguments.output, tuple(arguments.ignore_color)
    )
    print(f"Wrote {number} labels to {arguments.output}.")
