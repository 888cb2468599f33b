"""From a config file and overrides to the frozen config of a run."""

import argparse
import io
import logging
import re
from pathlib import Path

import torch
from fvcore.common.registry import Registry

from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from ..config import add_ctxseg_config
from ..data import dataset_names, register_builtin_datasets, register_folder_datasets
from ..data.images import check_channels
from ..modeling.backbones.normalization import KEYS as NORMALIZATION_KEYS
from ..modeling.backbones.normalization import complete_normalization, has_encoder
from ..utils.errors import UserError, suggest
from .config_files import find_config_file
from .old_configs import forget_old_default

# What it says of normalisation is for encoders that say nothing themselves, and for programs that
# read configs without setup_config.
_DEFAULTS_FILE = "Base-Segmentor.yaml"

logger = logging.getLogger(__name__)


def add_opts_argument(
    parser: argparse.ArgumentParser, example: str = "MODEL.WEIGHTS model_final.pth"
) -> None:
    """Give a command ``--opts``, whose values :func:`setup_config` applies to the config."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=f"config keys to change, such as {example}; the last option",
    )


def setup_config(config_file: str, opts: list[str], *, for_inference: bool = False) -> CfgNode:
    """Read ``config_file``, apply ``opts``, register its folder datasets, choose a device.

    MODEL.PIXEL_MEAN and PIXEL_STD are the encoder's (``modeling/backbones/normalization``), unless
    the overrides or a file other than Base-Segmentor.yaml state them.

    Args:
        config_file: path of a YAML file, or the name of a config of this project; its ``_BASE_``
            files are read first. "" for defaults.
        opts: alternating keys and values, as on the command line.
        for_inference: MODEL.WEIGHTS will fill the whole model, so pretrained weights for the
            encoder are not fetched.

    Returns:
        The frozen config.

    Raises:
        MissingFileError: no such config file, and no config of that name.
        UserError: unknown key or name (the message names the nearest), a value of the wrong type,
            a normalisation that does not fit INPUT.FORMAT, or a number of classes that is not the
            dataset's.
    """
    if config_file:
        config_file = find_config_file(config_file)
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    _merge(cfg, config_file, opts)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        logger.warning("No GPU is present: MODEL.DEVICE is set to 'cpu'.")
    _check_precision(cfg)
    # Before the encoder's weights are left out, which have a say in it.
    complete_normalization(cfg, _stated_normalization(config_file, opts))
    check_channels(cfg)
    if for_inference:
        cfg.MODEL.ENCODER.WEIGHTS = ""
    else:
        _warn_of_frozen_random_weights(cfg)
    register_folder_datasets(cfg.DATASETS.FOLDERS)
    register_builtin_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    _check_names(cfg)
    forget_old_default(cfg, config_file, opts)
    _check_pixel_loss(cfg)
    _check_num_classes(cfg)
    cfg.freeze()
    return cfg


def _merge(cfg: CfgNode, config_file: str, opts: list[str]) -> None:
    options = [word for word in opts[::2] if word.startswith("--")]
    if options:
        raise UserError(
            f"'{options[0]}' stands among the overrides: options come before the first KEY VALUE."
        )
    if len(opts) % 2:
        raise UserError(
            f"Overrides must be KEY VALUE KEY VALUE ..., but {len(opts)} words were given: "
            f"{' '.join(opts)}"
        )
    known = _all_keys(cfg)
    for source, merge, argument in (
        (config_file, cfg.merge_from_file, config_file),
        ("the overrides", cfg.merge_from_list, opts),
    ):
        if not argument:
            continue
        try:
            merge(argument)
        except (KeyError, AssertionError, ValueError) as error:
            raise UserError(_explain(error, source, known)) from error


class _WithoutDefaults(CfgNode):
    """Reads a config file and its bases, but for ``_DEFAULTS_FILE``."""

    @classmethod
    def _open_cfg(cls, filename):
        if Path(filename).name == _DEFAULTS_FILE:
            return io.StringIO("{}")
        return super()._open_cfg(filename)


def _stated_normalization(config_file: str, opts: list[str]) -> set[str]:
    """Which of MODEL.PIXEL_MEAN and PIXEL_STD the config itself states."""
    stated = {key for key in NORMALIZATION_KEYS if f"MODEL.{key}" in opts[::2]}
    if config_file:
        values = _WithoutDefaults.load_yaml_with_base(config_file, allow_unsafe=True)
        stated |= set(NORMALIZATION_KEYS) & set(values.get("MODEL") or {})
    return stated


def _warn_of_frozen_random_weights(cfg: CfgNode) -> None:
    model = cfg.MODEL
    has_random_weights = not (model.ENCODER.WEIGHTS or model.WEIGHTS)
    if has_encoder(cfg) and has_random_weights and model.BACKBONE.FREEZE_AT > 0:
        logger.warning(
            "MODEL.BACKBONE.FREEZE_AT is %d, but MODEL.ENCODER.WEIGHTS and MODEL.WEIGHTS are "
            "empty: random weights would stay as they are. Set FREEZE_AT to 0, or name weights.",
            model.BACKBONE.FREEZE_AT,
        )


def _check_precision(cfg: CfgNode) -> None:
    amp, known = cfg.SOLVER.AMP, ("float16", "bfloat16")
    if amp.PRECISION not in known:
        raise UserError(
            f"SOLVER.AMP.PRECISION: '{amp.PRECISION}' is not one of {', '.join(known)}."
            f"{suggest(amp.PRECISION, known)}"
        )
    if cfg.MODEL.DEVICE == "cpu" and amp.ENABLED and amp.PRECISION == "float16":
        amp.ENABLED = False
        logger.warning(
            "Training in float16 needs a GPU: SOLVER.AMP.ENABLED is set to False. "
            "SOLVER.AMP.PRECISION 'bfloat16' works on the CPU too."
        )


def _check_names(cfg: CfgNode) -> None:
    """Answer a name that nothing is registered under with the nearest that there is."""
    datasets = dataset_names()
    checks = [
        ("MODEL.META_ARCHITECTURE", [cfg.MODEL.META_ARCHITECTURE], _names(META_ARCH_REGISTRY)),
        ("MODEL.BACKBONE.NAME", [cfg.MODEL.BACKBONE.NAME], _names(BACKBONE_REGISTRY)),
        ("MODEL.SEM_SEG_HEAD.NAME", [cfg.MODEL.SEM_SEG_HEAD.NAME], _names(SEM_SEG_HEADS_REGISTRY)),
        ("DATASETS.TRAIN", cfg.DATASETS.TRAIN, datasets),
        ("DATASETS.TEST", cfg.DATASETS.TEST, datasets),
    ]
    for key, names, known in checks:
        for name in names:
            if name not in known:
                raise UserError(f"{key}: nothing is registered as '{name}'.{suggest(name, known)}")


def _check_pixel_loss(cfg: CfgNode) -> None:
    """Warn where MODEL.PIXEL_LOSS has no effect."""
    defaults = get_cfg()
    add_ctxseg_config(defaults)
    name = cfg.MODEL.META_ARCHITECTURE
    ours = hasattr(META_ARCH_REGISTRY.get(name), "classifier_class")
    if not ours and defaults.MODEL.PIXEL_LOSS != cfg.MODEL.PIXEL_LOSS:
        logger.warning(
            "MODEL.PIXEL_LOSS has no effect with MODEL.META_ARCHITECTURE '%s', which computes its "
            "losses itself. 'LinearSegmentor' is this project's in the place of SemanticSegmentor.",
            name,
        )


def _check_num_classes(cfg: CfgNode) -> None:
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = MetadataCatalog.get(name).get("stuff_classes")
        if classes and len(classes) != num_classes:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but '{name}' has "
                f"{len(classes)} classes. Set it to {len(classes)}."
            )


def _names(registry: Registry) -> list[str]:
    return [name for name, _ in registry]


def _explain(error: Exception, source: str, known: list[str]) -> str:
    message = str(error.args[0]) if error.args else str(error)
    unknown = re.search(r"Non-existent (?:config )?key: ([\w.]+)", message)
    if unknown is None:
        return f"In {source}: {message}"
    key = unknown.group(1)
    return f"In {source}: there is no config key '{key}'.{suggest(key, known)}"


def _all_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys
