"""Get a config, the file of its trained weights, or its model by name."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import Checkpointer, load_weights
from ..engine.config_files import get_config_file
from ..engine.setup import setup_config
from .trained_models import TRAINED_FOLDER, check_file, find_trained_model


def get_config(
    name: str, trained: bool = False, *, opts: Sequence = (), folder: Path = TRAINED_FOLDER
) -> CfgNode:
    """The config with this name; it is not frozen.

    MODEL.DEVICE is "cpu" on a machine without a GPU.

    Args:
        name: a name such as "camvid/fpn_resnet18_linear", with or without ".yaml".
        trained: set MODEL.WEIGHTS to the trained weights, and other keys as these weights need.
            Otherwise the config is for training, which may download pretrained encoder weights.
        opts: alternating keys and values that override the config.
        folder: the folder of the trained models.

    Raises:
        UserError: the config does not exist, it has no trained weights (the message lists models
            that have), a file is missing or damaged, or a key or value in ``opts`` is invalid.
    """
    config_file = get_config_file(name)
    own_opts: list = []
    if trained:
        model = find_trained_model(name, folder)
        own_opts = ["MODEL.WEIGHTS", check_file(model, folder)]
        own_opts += [word for pair in model.opts.items() for word in pair]
    cfg = setup_config(config_file, [*own_opts, *opts], for_inference=trained)
    cfg.defrost()
    return cfg


def get_checkpoint_path(name: str, *, folder: Path = TRAINED_FOLDER) -> str:
    """The path of the trained weights of the config with this name.

    It replaces ``get_checkpoint_url`` of Detectron2's model zoo, as the package contains the files.

    Args:
        name: a name such as "camvid/fpn_resnet18_linear", with or without ".yaml".
        folder: the folder of the trained models.

    Raises:
        UserError: see :func:`get_config`.
    """
    get_config_file(name)  # for an unknown name, the error suggests the nearest config
    return check_file(find_trained_model(name, folder), folder)


def get(
    name: str,
    trained: bool = False,
    device: str | None = None,
    *,
    folder: Path = TRAINED_FOLDER,
) -> nn.Module:
    """Build the model with this name.

    Args:
        name: a name such as "camvid/fpn_resnet18_linear", with or without ".yaml".
        trained: load the trained weights and set evaluation mode. Otherwise the model is in
            training mode, with the pretrained encoder weights of its config.
        device: the value of MODEL.DEVICE; None: a GPU if one is available.
        folder: the folder of the trained models.

    Returns:
        A Detectron2 model. Its input is a list of dicts with "image", a tensor (3, H, W) of values
        from 0 to 255 in the channel order of ``INPUT.FORMAT``, and optionally "height" and "width"
        of the output. For each image it returns {"sem_seg": logits (K, height, width)}.

    Raises:
        UserError: see :func:`get_config`; or the pretrained weights cannot be downloaded.
    """
    opts = [] if device is None else ["MODEL.DEVICE", device]
    cfg = get_config(name, trained, opts=opts, folder=folder)
    model = build_model(cfg)
    if trained:
        load_weights(model, cfg.MODEL.WEIGHTS)
        return model.eval()
    if cfg.MODEL.WEIGHTS:
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
