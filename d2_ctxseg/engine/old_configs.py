"""What config files that an earlier version saved mean today."""

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

logger = logging.getLogger(__name__)

_OLD_DEFAULT = "LinearClassifier"


def forget_old_default(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> None:
    """Empty MODEL.CLASSIFIER.NAME where it is an earlier version's default, not anyone's choice.

    That version saved ``NAME: LinearClassifier`` with every run, also with meta-architectures that
    have another classifier, where the name had no effect. The rule: a file that Detectron2 saved
    (it has VERSION and no _BASE_) and that does not have MODEL.PIXEL_LOSS is of that version.

    Args:
        cfg: the merged config; changed in place.
        config_file: where it comes from; "" for none.
        opts: the overrides, alternating keys and values. A name among them is a choice.
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
    except yaml.YAMLError:  # with tags that Detectron2 does not save
        return False
    complete = "VERSION" in values and "_BASE_" not in values
    return complete and "PIXEL_LOSS" not in (values.get("MODEL") or {})
