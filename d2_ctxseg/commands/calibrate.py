"""Fit the temperature that calibrates a model's confidences, and store it beside the weights."""

import argparse
import os

from tabulate import tabulate

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ..checkpoint import load_weights, read_temperatures, temperature_file, write_temperatures
from ..data.registration import has_labels
from ..engine import Trainer
from ..engine.calibration import PixelSample, sample_pixels
from ..utils.errors import UsageError, UserError
from ..utils.outputs import check_output_file
from .model_config import config_of


def main(arguments: argparse.Namespace) -> None:
    setup_logger(name="fvcore")
    setup_logger(name="d2_ctxseg")
    # In the config, so that it is registered and its classes are compared with the model.
    extra = ["DATASETS.TEST", (arguments.dataset,)] if arguments.dataset else []
    cfg = config_of(arguments, *extra)
    weights, dataset = cfg.MODEL.WEIGHTS, dataset_of(cfg)
    if not os.path.isfile(weights):
        raise UsageError(
            f"MODEL.WEIGHTS is '{weights}', which is not a file: set a checkpoint with --weights, "
            "or the folder of a training with --run."
        )
    check_output_file(temperature_file(weights), "--weights")
    model = Trainer.build_model(cfg).eval()
    load_weights(model, weights)
    samples = sample_pixels(cfg, model, dataset, Trainer.build_test_loader(cfg, dataset))
    fitted = {task: sample.fit(dataset) for task, sample in samples.items()}
    path = write_temperatures(weights, read_temperatures(weights) | fitted)
    print(format_table(samples, fitted))
    print(f"Fitted on {dataset}; wrote '{path}'.")


def dataset_of(cfg: CfgNode) -> str:
    """The dataset to fit on; UserError if none is set, or if it has no labels."""
    if not cfg.DATASETS.TEST:
        raise UsageError("DATASETS.TEST is empty: name the dataset to fit on with --dataset.")
    name = cfg.DATASETS.TEST[0]
    if not has_labels(name):
        raise UserError(
            f"'{name}' has no labels, which the fit of a temperature needs. Choose another split "
            "with --dataset."
        )
    return name


def format_table(samples: dict[str, PixelSample], fitted: dict) -> str:
    """A table with temperature, likelihood and calibration error before and after, per task."""
    rows = [
        {
            "task": task,
            "pixels": one.pixels,
            "temperature": one.temperature,
            "NLL at 1": one.nll_before,
            "NLL": one.nll_after,
            "ECE at 1": 100 * samples[task].calibration_error(1.0),
            "ECE": 100 * samples[task].calibration_error(one.temperature),
        }
        for task, one in fitted.items()
    ]
    formats = ("", "", ".4g", ".4f", ".4f", ".2f", ".2f")
    return tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=formats)
