"""Remove from a checkpoint everything that only training needs."""

import argparse

import torch

from detectron2.modeling import build_model

from ..checkpoint import copy_temperatures, load_weights, strip_training_only
from ..utils.errors import UsageError, UserError
from ..utils.files import atomic_write
from ..utils.outputs import check_output_file
from .model_config import config_of


def main(arguments: argparse.Namespace) -> None:
    if arguments.output.exists():
        raise UserError(f"--output: '{arguments.output}' already exists. Choose another file.")
    check_output_file(arguments.output, "--output")
    cfg = config_of(arguments, "MODEL.DEVICE", "cpu")
    if not cfg.MODEL.WEIGHTS:
        raise UsageError("--weights: name the full checkpoint, or a run with --run.")
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    removed = strip_training_only(model)
    with atomic_write(arguments.output, "wb") as file:
        torch.save({"model": model.state_dict(), "config": cfg.dump()}, file)
    copy_temperatures(cfg.MODEL.WEIGHTS, arguments.output)
    print(f"Removed {', '.join(removed) or 'no part of the model'}; wrote '{arguments.output}'.")
