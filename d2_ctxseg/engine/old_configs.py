"""Compatibility with config files that earlier versions saved."""

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

logger = logging.getLogger(__name__)

_OLD_DEFAULT = "LinearClassifier"


def forget_old_default(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> None:
    """Empty MODEL.CLASSIFIER.NAME where it is the default of an earlier version.

    That version saved ``NAME: LinearClassifier`` with every run, even with meta-architectures that
    have another classifier, where the name had no effect. A file is of that version if Detectron2
    saved it (it has VERSION and no _BASE_) and it lacks MODEL.PIXEL_LOSS.

    Args:
        cfg: the merged config; changed in place.
        config_file: path of the config file; "" for none.
        opts: the overrides, alternating keys and values. A name among them is kept.
    """
    if cfg.MODEL.CLASSIFIER.NAME != _OLD_DEFAULT or "MODEL.CLASSIFIER.NAME" in opts[::2]:
        return
    if not config_file or not _saved_earlier(config_file):
        return
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    own = getattr(architecture, "classifier_class", None)
    if own is None or own.__name__ == _OLD_DEFAULT:
        return
    cfg.MODEL.CLASSIFIER.NAME = ""
    logger.warning(
        "%s was saved by an earlier version, whose MODEL.CLASSIFIER.NAME '%s' had no effect with "
        "'%s'. The name is left out.",
        config_file,
        _OLD_DEFAULT,
        cfg.MODEL.META_ARCHITECTURE,
    )


def _saved_earlier(config_file: str) -> bool:
    try:
        values = yaml.safe_load(Path(config_file).read_text(encoding="utf-8"))
    except yaml.YAMLError:  # it has tags that Detectron2 does not write
        return False
    complete = "VERSION" in values and "_BASE_" not in values
    return complete and "PIXEL_LOSS" not in (values.get("MODEL") or {})
