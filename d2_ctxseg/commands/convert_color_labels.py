"""Convert label images with colours for classes to label images with class indices."""

import argparse

from ..data import convert_color_labels, read_folder_dataset


def main(arguments: argparse.Namespace) -> None:
    dataset = read_folder_dataset(arguments.yaml)
    number = convert_color_labels(
        dataset, arguments.split, arguments.output, tuple(arguments.ignore_color)
    )
    print(f"Wrote {number} labels to {arguments.output}.")
