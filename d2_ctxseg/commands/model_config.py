"""The config of the model that command-line options name (``CommandParser.add_model``)."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from .. import model_zoo
from ..engine.config_files import find_config_file
from ..engine.read_config import stated_imports
from ..engine.setup import setup_config
from ..model_zoo.load import WEIGHTS
from ..utils.errors import MissingFileError, UsageError


def config_of(arguments: argparse.Namespace, *extra: object, for_inference: bool = True) -> CfgNode:
    """The frozen config of the model that a command's arguments name, with its weights.

    Args:
        arguments: parsed arguments of ``add_model``; ``config_file``, ``run``, ``model`` and
            ``weights`` may be absent.
        extra: alternating keys and values that override all others.
        for_inference: see ``setup_config``.

    Raises:
        UsageError: two options set the weights.
        MissingFileError: the run has no config or no weights.
        UserError: see ``setup_config``.
    """
    opts = [*overrides_of(arguments), *extra]
    name = getattr(arguments, "model", None)
    if name:
        return named_config(name, opts)
    return setup_config(config_file_of(arguments), opts, for_inference=for_inference)


def named_config(name: str, opts: Sequence) -> CfgNode:
    """The frozen config of a trained model, a checkpoint or a model on the Hub (``--model``).

    Raises:
        UserError: the model does not exist.
    """
    if os.path.exists(name) or model_zoo.is_hub_id(name):
        return model_zoo.trained_config(name, opts=opts)
    cfg = model_zoo.get_config(name, trained=True, opts=opts)
    cfg.freeze()
    return cfg


def config_file_of(arguments: argparse.Namespace) -> str:
    """The path of ``--config-file`` or of the config.yaml of ``--run``; "" without either.

    Raises:
        MissingFileError: the config file does not exist.
    """
    run = getattr(arguments, "run", None)
    path = str(run_config_file(run)) if run else arguments.config_file
    return find_config_file(path) if path else ""


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """The config overrides of ``--run``, ``--weights``, ``--import`` and the KEY VALUE pairs.

    Returns:
        Alternating keys and values.

    Raises:
        UsageError: two options set the weights.
        MissingFileError: the run has no weights.
    """
    opts = list(arguments.opts)
    if arguments.imports:
        stated = stated_imports(config_file_of(arguments), opts)
        opts += ["IMPORTS", repr([*stated, *arguments.imports])]
    weights, run = getattr(arguments, "weights", None), getattr(arguments, "run", None)
    if weights:
        if "MODEL.WEIGHTS" in opts[::2]:
            raise UsageError("--weights and MODEL.WEIGHTS both set the weights: use only one.")
        return ["MODEL.WEIGHTS", weights, *opts]
    if run and "weights" in arguments and "MODEL.WEIGHTS" not in opts[::2]:
        return ["MODEL.WEIGHTS", str(run_weights(run)), *opts]
    return opts


def run_config_file(folder: str | os.PathLike) -> Path:
    """The path of config.yaml in a training's folder; MissingFileError if it does not exist."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise MissingFileError(
            f"--run {folder}: there is no config.yaml; expected the output folder of a training"
        )
    return path


def run_weights(folder: str | os.PathLike) -> Path:
    """The first of ``WEIGHTS`` in a training's folder; MissingFileError if there is none."""
    for name in WEIGHTS:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise MissingFileError(
        f"--run {folder}: there is no {' or '.join(WEIGHTS)}; expected the output folder of a "
        "finished training"
    )
