"""From the name of a model to its config, the file of its weights, and the model itself."""

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
    """The config with this name, ready to use and free to be changed.

    MODEL.DEVICE is "cpu" where there is no GPU.

    Args:
        name: as in "camvid/fpn_resnet18_linear", with or without ".yaml".
        trained: set MODEL.WEIGHTS to the trained file, and whatever else it needs. Otherwise the
            config is that of a training, which may fetch pretrained weights for the encoder.
        opts: alternating keys and values to change, which have the last word.
        folder: of the trained models.

    Raises:
        UserError: no such config, no trained weights for it (the message names the models that have
            them), a missing or damaged file, or a key or value in ``opts`` that is wrong.
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

    Stands for ``get_checkpoint_url`` of Detectron2's model zoo: the files come with the package.

    Raises:
        UserError: as :func:`get_config`.
    """
    get_config_file(name)  # an unknown name is answered with the nearest config
    return check_file(find_trained_model(name, folder), folder)


def get(
    name: str,
    trained: bool = False,
    device: str | None = None,
    *,
    folder: Path = TRAINED_FOLDER,
) -> nn.Module:
    """The model with this name.

    Args:
        name: as in "camvid/fpn_resnet18_linear", with or without ".yaml".
        trained: filled with the trained weights and in evaluation mode. Otherwise as a training
            begins: in training mode, the encoder with the pretrained weights that its config names.
        device: as MODEL.DEVICE; None for a GPU where there is one.
        folder: of the trained models.

    Returns:
        A Detectron2 model. It takes a list of dicts with "image", a tensor (3, H, W) of values from
        0 to 255 in the order of channels of ``INPUT.FORMAT``, and optionally "height" and "width"
        of the output; for each image it returns {"sem_seg": logits (K, height, width)}.

    Raises:
        UserError: as :func:`get_config`, or the pretrained weights cannot be fetched.
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
