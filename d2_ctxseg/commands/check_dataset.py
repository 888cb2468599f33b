"""Read every image and label of datasets, and report problems and class frequencies."""

import argparse
import json
import sys
from pathlib import Path

from detectron2.config import get_cfg

from ..config import add_ctxseg_config
from ..data import DatasetError, check_dataset, register_folder_datasets
from ..engine.read_config import merge_config
from ..engine.validate_config import validate_values
from ..utils.outputs import check_output_folder
from ..utils.png import write_png
from ..visualization.sample_sheet import draw_sample_sheet
from .model_config import config_file_of, overrides_of


def names_to_check(arguments: argparse.Namespace) -> list[str]:
    """Register the datasets that the arguments describe; returns the names to check."""
    names = []
    if arguments.folder:
        names.extend(register_folder_datasets([arguments.folder]))
    if arguments.config_file or arguments.run:
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        merge_config(cfg, config_file_of(arguments), overrides_of(arguments))
        validate_values(cfg, ("DATASETS.FOLDERS", "DATASETS.TRAIN", "DATASETS.TEST"))
        register_folder_datasets(cfg.DATASETS.FOLDERS)
        names.extend([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    names = arguments.names or list(dict.fromkeys(names))
    if not names:
        raise DatasetError("Nothing to check: set a NAME, --folder or --config-file.")
    return names


def draw_sheets(names: list[str], folder: Path, num_samples: int, seed: int) -> None:
    """Write one sheet per dataset; a dataset without a readable pair is skipped."""
    for name in names:
        path = folder / f"{name}.png"
        try:
            write_png(path, draw_sample_sheet(name, num_samples, seed))
            print(f"Samples of {name} are in {path}", file=sys.stderr)
        except DatasetError as error:
            print(f"No samples of {name}: {error}", file=sys.stderr)


def main(arguments: argparse.Namespace) -> None:
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
