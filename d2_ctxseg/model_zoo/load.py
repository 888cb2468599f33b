"""Load a trained model from a run's folder, a checkpoint, by name, or from the Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from detectron2.config import CfgNode

from ..checkpoint import peek_checkpoint
from ..deployment.segmentor import Segmentor
from ..engine.config_files import config_names
from ..engine.setup import setup_config
from ..utils.errors import MissingFileError, UserError, counted, suggest
from .hub_client import CONFIG_FILE, WEIGHTS_FILE, download
from .model_zoo import get_config
from .trained_models import TRAINED_FOLDER, read_trained_models

#: Names of weights in a folder, in the order of preference.
WEIGHTS = ("model_final.pth", "model_best.pth", "model_extended.pth", WEIGHTS_FILE)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS_SUFFIXES = (".pth", ".safetensors")


def load_segmentor(
    source: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    weights: str | None = None,
    opts: Sequence = (),
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    trust_remote_code: bool = False,
) -> Segmentor:
    """Load a trained model for predictions.

    Args:
        source: the folder of a training; a checkpoint (.pth) of one, or weights beside their
            config.yaml; the name of a trained model, ``model_zoo.read_trained_models()``; or
            "user/model" on the Hugging Face Hub. An existing file or folder takes precedence.
        device: "cpu", "cuda", "cuda:1", ...; None: a GPU if one is available, otherwise the CPU.
            The device in the model's config is ignored.
        weights: name of a file in the folder; None: the first existing one of ``WEIGHTS``.
        opts: alternating keys and values that override the config.
        revision, token, cache_dir, trust_remote_code: options for the Hub, see
            :func:`d2_ctxseg.model_zoo.hub_client.download`.

    Returns:
        The model with its weights, in evaluation mode.

    Raises:
        MissingFileError: the file or folder does not exist, or has no config or weights.
        UserError: no model has this name (the message suggests the nearest), the weights do not fit
            the config, the device does not exist, or the Hub cannot be reached.
    """
    options = ["MODEL.DEVICE", choose_device(device), *opts]
    cfg = trained_config(
        source,
        weights,
        options,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        trust_remote_code=trust_remote_code,
    )
    return Segmentor(cfg)


def choose_device(device: str | torch.device | None = None) -> str:
    """The value of MODEL.DEVICE for a device; None: a GPU if available, otherwise the CPU.

    Raises:
        UserError: the device does not exist on this machine.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"device is {device!r}, expected 'cpu', 'cuda', 'cuda:1' or None."
            f"{_suggest_device(str(device))}"
        ) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise UserError(
            f"device is '{chosen}', but PyTorch finds {counted(count, 'GPU')} here. Use "
            "device='cpu', or device=None to choose an available device."
        )
    return str(chosen)


def _suggest_device(name: str) -> str:
    # By its letters, "gpu" is nearer to "cpu".
    return " Did you mean 'cuda'?" if "gpu" in name.lower() else suggest(name, ("cpu", "cuda"))


def trained_config(
    source: str | os.PathLike,
    weights: str | None = None,
    opts: Sequence = (),
    *,
    folder: Path = TRAINED_FOLDER,
    **hub,
) -> CfgNode:
    """The frozen config of a trained model, with the path of its weights in MODEL.WEIGHTS.

    Args:
        source, weights, opts: see :func:`load_segmentor`.
        folder: the folder of the named trained models.
        hub: options of :func:`d2_ctxseg.model_zoo.hub_client.download`.

    Raises:
        MissingFileError, UserError: see :func:`load_segmentor`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path, weights, opts)
    if weights is not None and not is_hub_id(source):
        raise UserError(
            f"weights='{weights}' names a file in a folder, but '{source}' is not a folder."
        )
    if path.is_file():
        return _of_checkpoint(path, opts)
    name = str(source).removesuffix(".yaml")
    if name in read_trained_models(folder):
        cfg = get_config(name, trained=True, opts=opts, folder=folder)
        cfg.freeze()
        return cfg
    if not is_hub_id(source):
        raise _unknown(str(source), folder)
    return _of_folder(download(str(source), **hub), weights, opts)


def _of_folder(folder: Path, weights: str | None, opts: Sequence) -> CfgNode:
    path = _weights_in(folder, weights)
    config = folder / CONFIG_FILE
    if not config.is_file():
        if path.suffix == ".pth":
            return _of_checkpoint(path, opts)
        raise MissingFileError(
            f"'{folder}' has no {CONFIG_FILE}, expected the OUTPUT_DIR of a training."
        )
    return _inference_config(str(config), path, opts)


def _weights_in(folder: Path, weights: str | None) -> Path:
    for name in WEIGHTS if weights is None else [weights]:
        if (folder / name).is_file():
            return folder / name
    there = sorted(p.name for p in folder.iterdir() if p.suffix in _WEIGHTS_SUFFIXES)
    wanted = " or ".join(WEIGHTS) if weights is None else weights
    remedy = "Expected the OUTPUT_DIR of a finished training."
    if there:
        remedy = f"It has {', '.join(there[:5])}: choose one, as with weights='{there[-1]}'."
    raise MissingFileError(f"'{folder}' has no {wanted}. {remedy}")


def _of_checkpoint(path: Path, opts: Sequence) -> CfgNode:
    """The config stored in a checkpoint, or in the config.yaml beside it."""
    if path.suffix not in _WEIGHTS_SUFFIXES:
        raise UserError(
            f"'{path}' is not a checkpoint, expected the folder of a training or a file ending in "
            f"{' or '.join(_WEIGHTS_SUFFIXES)}."
        )
    config = peek_checkpoint(str(path)).get("config") if path.suffix == ".pth" else None
    beside = path.with_name(CONFIG_FILE)
    if not isinstance(config, str):
        if beside.is_file():
            return _inference_config(str(beside), path, opts)
        raise MissingFileError(
            f"'{path}' does not contain its config, and '{beside}' does not exist. Put the "
            f"training's {CONFIG_FILE} there."
        )
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / CONFIG_FILE
        file.write_text(config, encoding="utf-8")
        return _inference_config(str(file), path, opts)


def _inference_config(config_file: str, weights: Path, opts: Sequence) -> CfgNode:
    options = ["MODEL.WEIGHTS", str(weights.resolve()), *opts]
    cfg = setup_config(config_file, options, for_inference=True)
    if not cfg.DATASETS.TEST:  # a training without evaluation: its training set has the classes
        cfg.defrost()
        cfg.DATASETS.TEST = cfg.DATASETS.TRAIN[:1]
        cfg.freeze()
    return cfg


def is_hub_id(source: str | os.PathLike) -> bool:
    """Whether a name can be a model on the Hub, and not a config of this project."""
    name = str(source)
    is_file_name = name.endswith((*_WEIGHTS_SUFFIXES, ".yaml"))
    own_folders = {config.partition("/")[0] for config in config_names()}
    is_id = isinstance(source, str) and _HUB_ID.fullmatch(name) and not name.startswith(".")
    return bool(is_id) and not is_file_name and name.partition("/")[0] not in own_folders


def _unknown(source: str, folder: Path) -> UserError:
    names = list(read_trained_models(folder))
    if source.removesuffix(".yaml") in config_names():
        return UserError(
            f"'{source}' is a config without trained weights. Train it, and pass its OUTPUT_DIR. "
            f"Trained models: {', '.join(names) or 'none'}."
        )
    return MissingFileError(
        f"No trained model '{source}': no such file or folder exists (in {Path.cwd()}), and no "
        f"trained model has this name.{suggest(source, names)} Trained models: "
        f"{', '.join(names) or 'none'}."
    )
