"""Build the frozen config of a run from a config file and overrides."""

import functools
import logging
from pathlib import Path

import torch

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from ..config import add_ctxseg_config
from ..data import register_datasets_of
from ..data.images import check_channels
from ..modeling.backbones.normalization import KEYS as NORMALIZATION_KEYS
from ..modeling.backbones.normalization import complete_normalization, has_encoder
from ..utils.errors import UserError
from .config_files import find_config_file
from .config_rules import classifier_class
from .old_configs import forget_old_default
from .read_config import merge_config, read_files
from .validate_config import default_config, validate_config, validate_datasets

# Its PIXEL_MEAN and PIXEL_STD serve encoders without their own, and programs that read configs
# without setup_config.
_DEFAULTS_FILE = "Base-Segmentor.yaml"

logger = logging.getLogger(__name__)


def setup_config(config_file: str, opts: list[str], *, for_inference: bool = False) -> CfgNode:
    """Read ``config_file``, apply ``opts``, register its folder datasets, choose a device.

    MODEL.PIXEL_MEAN and PIXEL_STD are the encoder's (``modeling/backbones/normalization``), unless
    the overrides or a file other than Base-Segmentor.yaml set them.

    Args:
        config_file: path of a YAML file, or the name of a config of this project; its ``_BASE_``
            files are read first. "" for defaults.
        opts: alternating keys and values, as on the command line.
        for_inference: MODEL.WEIGHTS will fill the whole model, so pretrained weights for the
            encoder are not downloaded.

    Returns:
        The frozen config.

    Raises:
        MissingFileError: neither a config file nor a config of that name exists.
        UserError: the file is not a config, a key or name is unknown (the message suggests the
            nearest), or a value is invalid; see ``read_config`` and ``validate_config``.
    """
    if config_file:
        config_file = find_config_file(config_file)
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    merge_config(cfg, config_file, opts)
    validate_config(cfg, training=not for_inference)
    forget_old_default(cfg, config_file, opts)
    _adapt_to_machine(cfg)
    # Before ENCODER.WEIGHTS is cleared: the normalisation depends on the encoder's weights.
    complete_normalization(cfg, _stated_normalization(config_file, opts))
    check_channels(cfg)
    if for_inference:
        cfg.MODEL.ENCODER.WEIGHTS = ""
    else:
        _warn_of_frozen_random_weights(cfg)
    register_datasets_of(cfg, for_inference=for_inference)
    validate_datasets(cfg, training=not for_inference)
    _warn_of_unused_pixel_loss(cfg)
    cfg.freeze()
    return cfg


def refuse_untrained_classifier(cfg: CfgNode) -> None:
    """Raise UserError if the config's classifier is not trained, as a feature bank."""
    if not getattr(classifier_class(cfg), "is_trained", True):
        raise UserError(
            f"MODEL.META_ARCHITECTURE '{cfg.MODEL.META_ARCHITECTURE}' is not trained: "
            "'d2-ctxseg build-bank' fills its bank from DATASETS.TRAIN, 'd2-ctxseg eval' "
            "evaluates it (docs/classifiers/FEATURE_BANK.md)."
        )


def _stated_normalization(config_file: str, opts: list[str]) -> set[str]:
    """The ones of MODEL.PIXEL_MEAN and PIXEL_STD that the config itself sets."""
    stated = {key for key in NORMALIZATION_KEYS if f"MODEL.{key}" in opts[::2]}
    for path, values in read_files(config_file) if config_file else ():
        if Path(path).name != _DEFAULTS_FILE:
            stated |= set(NORMALIZATION_KEYS) & set(values.get("MODEL", ()))
    return stated


def _warn_of_frozen_random_weights(cfg: CfgNode) -> None:
    model = cfg.MODEL
    has_random_weights = not (model.ENCODER.WEIGHTS or model.WEIGHTS)
    if has_encoder(cfg) and has_random_weights and model.BACKBONE.FREEZE_AT > 0:
        logger.warning(
            "MODEL.BACKBONE.FREEZE_AT is %d, but MODEL.ENCODER.WEIGHTS and MODEL.WEIGHTS are "
            "empty: random weights would stay untrained. Set FREEZE_AT to 0, or set weights.",
            model.BACKBONE.FREEZE_AT,
        )


def _adapt_to_machine(cfg: CfgNode) -> None:
    """Switch off what this machine does not support, with a warning."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        _warn_once("No GPU is available: MODEL.DEVICE is set to 'cpu'.")
    amp = cfg.SOLVER.AMP
    if cfg.MODEL.DEVICE == "cpu" and amp.ENABLED and amp.PRECISION == "float16":
        amp.ENABLED = False
        logger.warning(
            "Training in float16 needs a GPU: SOLVER.AMP.ENABLED is set to False. "
            "SOLVER.AMP.PRECISION 'bfloat16' works on the CPU too."
        )


@functools.cache
def _warn_once(message: str) -> None:
    """Warn once in a process: a study reads many configs, and a machine stays the same."""
    logger.warning(message)


def _warn_of_unused_pixel_loss(cfg: CfgNode) -> None:
    """Warn where MODEL.PIXEL_LOSS has no effect."""
    name = cfg.MODEL.META_ARCHITECTURE
    ours = hasattr(META_ARCH_REGISTRY.get(name), "classifier_class")
    if not ours and default_config().MODEL.PIXEL_LOSS != cfg.MODEL.PIXEL_LOSS:
        logger.warning(
            "MODEL.PIXEL_LOSS has no effect with MODEL.META_ARCHITECTURE '%s', which computes its "
            "losses itself. Use 'LinearSegmentor' instead of SemanticSegmentor.",
            name,
        )
