#!/usr/bin/env python3
"""Generate ContextShapes, a small synthetic dataset (see datasets/README.md).

    python datasets/prepare_context_shapes.py

The files are the same on every machine. The dataset is created atomically.
"""

import argparse
from pathlib import Path

from d2_ctxseg.data import ContextShapesOptions, generate_context_shapes
from d2_ctxseg.data.folder_dataset import datasets_root
from d2_ctxseg.utils.errors import run_command


def parse_size(text: str) -> tuple[int, int]:
    """Parse "WIDTHxHEIGHT"."""
    width, height = text.lower().split("x")
    return int(width), int(height)


def parse_arguments() -> argparse.Namespace:
    defaults = ContextShapesOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=datasets_root() / "context_shapes",
        help="folder to create (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    parser.add_argument("--num-train", type=int, default=defaults.num_train, help="(%(default)s)")
    parser.add_argument("--num-val", type=int, default=defaults.num_val, help="(%(default)s)")
    parser.add_argument(
        "--size",
        type=parse_size,
        default=(defaults.width, defaults.height),
        metavar="WIDTHxHEIGHT",
        help=f"size of the images ({defaults.width}x{defaults.height})",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing ContextShapes that differs"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    width, height = arguments.size
    options = ContextShapesOptions(
        arguments.seed, arguments.num_train, arguments.num_val, height, width
    )
    what = f"{options.num_train} train and {options.num_val} val images of {width}x{height}"
    if arguments.dry_run:
        megabytes = (options.num_train + options.num_val) * width * height * 4 / 1e6
        print(f"Would create {what} in {arguments.output} ({megabytes:.1f} MB).")
        return
    is_new = generate_context_shapes(arguments.output, options, overwrite=arguments.overwrite)
    print(f"{'Created' if is_new else 'Already exists:'} {what} in {arguments.output}.")


if __name__ == "__main__":
    run_command(main)
