"""From the options that name a model (``CommandParser.add_model``) to its config."""

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
    """The frozen config that the arguments of a command name, with its weights.

    Args:
        arguments: of ``add_model``; ``config_file``, ``run``, ``model``, ``weights`` may be
            absent.
        extra: keys and values, alternating, that have the last word.
        for_inference: as of ``setup_config``.

    Raises:
        UsageError: weights are named twice.
        MissingFileError: the run lacks its config or weights.
        UserError: as ``setup_config``.
    """
    opts = [*overrides_of(arguments), *extra]
    name = getattr(arguments, "model", None)
    if name:
        return named_config(name, opts)
    return setup_config(config_file_of(arguments), opts, for_inference=for_inference)


def named_config(name: str, opts: Sequence) -> CfgNode:
    """The frozen config of what ``--model`` names: a trained model, a checkpoint or a Hub id.

    Raises:
        UserError: there is no such model.
    """
    if os.path.exists(name) or model_zoo.is_hub_id(name):
        return model_zoo.trained_config(name, opts=opts)
    cfg = model_zoo.get_config(name, trained=True, opts=opts)
    cfg.freeze()
    return cfg


def config_file_of(arguments: argparse.Namespace) -> str:
    """The config file that is named, of a run its config.yaml; "" for none.

    Raises:
        MissingFileError: there is none, or the run has no config.yaml.
    """
    run = getattr(arguments, "run", None)
    path = str(run_config_file(run)) if run else arguments.config_file
    return find_config_file(path) if path else ""


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """What ``--run``, ``--weights``, ``--import`` and the pairs at the end change: keys and values.

    Raises:
        UsageError: weights are named twice.
        MissingFileError: the run has no weights.
    """
    opts = list(arguments.opts)
    if arguments.imports:
        stated = stated_imports(config_file_of(arguments), opts)
        opts += ["IMPORTS", repr([*stated, *arguments.imports])]
    weights, run = getattr(arguments, "weights", None), getattr(arguments, "run", None)
    if weights:
        if "MODEL.WEIGHTS" in opts[::2]:
            raise UsageError("--weights and MODEL.WEIGHTS both name weights: leave one out.")
        return ["MODEL.WEIGHTS", weights, *opts]
    if run and "weights" in arguments and "MODEL.WEIGHTS" not in opts[::2]:
        return ["MODEL.WEIGHTS", str(run_weights(run)), *opts]
    return opts


def run_config_file(folder: str | os.PathLike) -> Path:
    """config.yaml of a training's folder; MissingFileError if it is not there."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise MissingFileError(
            f"--run {folder}: there is no config.yaml; name the output folder of a training"
        )
    return path


def run_weights(folder: str | os.PathLike) -> Path:
    """The first of ``WEIGHTS`` in a training's folder; MissingFileError if there is none."""
    for name in WEIGHTS:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise MissingFileError(
        f"--run {folder}: there is no {' or '.join(WEIGHTS)}; name the output folder of a "
        "training that ended"
    )
