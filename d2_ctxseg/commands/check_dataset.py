#!/usr/bin/env python3
"""Read every image and label of datasets, and report problems and class frequencies.

    python tools/check_dataset.py camvid_sem_seg_train
    python tools/check_dataset.py --folder mydata.yaml
    python tools/check_dataset.py --config-file configs/mydata/mymodel.yaml --json
    python tools/check_dataset.py camvid_sem_seg_train --sheet output/sheets

With --sheet, FOLDER/NAME.png shows some of the images beside their labels. The exit code is 1 if
there are problems.
"""

import argparse
import json
import sys
from pathlib import Path

from detectron2.config import get_cfg

from ..config import add_ctxseg_config
from ..data import DatasetError, check_dataset, register_folder_datasets
from ..engine.config_files import find_config_file
from ..engine.read_config import merge_config
from ..engine.validate_config import validate_values
from ..utils.arguments import integer_from
from ..utils.outputs import check_output_folder
from ..utils.png import write_png
from ..visualization.sample_sheet import draw_sample_sheet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered names of splits")
    parser.add_argument(
        "--folder", help="YAML file of a dataset; without NAMEs all of its splits are checked"
    )
    parser.add_argument(
        "--config-file",
        help="config file; without NAMEs its DATASETS.TRAIN and DATASETS.TEST are checked",
    )
    parser.add_argument("--workers", type=integer_from(1), help="number of threads that read files")
    parser.add_argument(
        "--sheet", type=Path, metavar="FOLDER", help="draw a sheet of samples of each NAME there"
    )
    parser.add_argument(
        "--samples", type=integer_from(1), default=12, help="images of a sheet (%(default)s)"
    )
    parser.add_argument("--seed", type=integer_from(0), default=0, help="another one draws others")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    return parser.parse_args()


def names_to_check(arguments: argparse.Namespace) -> list[str]:
    """Register what the arguments bring along, and choose what to check."""
    names = []
    if arguments.folder:
        names.extend(register_folder_datasets([arguments.folder]))
    if arguments.config_file:
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        merge_config(cfg, find_config_file(arguments.config_file), [])
        validate_values(cfg, ("DATASETS.FOLDERS", "DATASETS.TRAIN", "DATASETS.TEST"))
        register_folder_datasets(cfg.DATASETS.FOLDERS)
        names.extend([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    names = arguments.names or list(dict.fromkeys(names))
    if not names:
        raise DatasetError("Nothing to check: give a NAME, --folder or --config-file.")
    return names


def draw_sheets(names: list[str], folder: Path, num_samples: int, seed: int) -> None:
    """One sheet a name; a dataset without a readable pair has none."""
    for name in names:
        path = folder / f"{name}.png"
        try:
            write_png(path, draw_sample_sheet(name, num_samples, seed))
            print(f"Samples of {name} are in {path}", file=sys.stderr)
        except DatasetError as error:
            print(f"No samples of {name}: {error}", file=sys.stderr)


def main() -> None:
    arguments = parse_arguments()
    if arguments.sheet:
        check_output_folder(arguments.sheet, "--sheet")
    names = names_to_check(arguments)
    reports = [check_dataset(name, arguments.workers) for name in names]
    if arguments.sheet:
        draw_sheets(names, arguments.sheet, arguments.samples, arguments.seed)
    if arguments.json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        print("\n\n".join(report.as_text() for report in reports))
    if any(report.problems for report in reports):
        sys.exit(1)
