"""Convert label images with colours for classes to label images with class indices."""

import argparse
import os
from pathlib import Path

from ..data import convert_color_labels, read_folder_dataset


def main(arguments: argparse.Namespace) -> None:
    dataset = read_folder_dataset(arguments.yaml)
    number = convert_color_labels(
        dataset, arguments.split, arguments.output, tuple(arguments.ignore_color)
    )
    folder = Path(os.path.relpath(arguments.output, dataset.resolve_root()))
    name = Path(arguments.output).absolute() if folder.parts[:1] == ("..",) else folder
    print(
        f"Wrote {number} labels to {arguments.output}. Now name {name} as 'labels' of the split "
        f"'{arguments.split}' in {arguments.yaml}."
    )
