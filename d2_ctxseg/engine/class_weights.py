"""Computes the numbers of MODEL.PIXEL_LOSS.CLASS_WEIGHTS "balanced"."""

import logging

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..data.class_balance import balanced_class_weights
from ..data.errors import DatasetError
from ..modeling.build_pixel_loss import BALANCED
from .run_folder import saved_config

logger = logging.getLogger(__name__)


def balance_classes(cfg: CfgNode, *, resume: bool = False) -> None:
    """Replace "balanced" class weights in ``cfg`` by those of the labels of DATASETS.TRAIN.

    All processes of a distributed run call it, before the config is saved and the model is built.
    The main process reads the labels. Other class weights are left unchanged.

    Args:
        cfg: changed in place; a frozen config is changed as well and stays frozen.
        resume: take the numbers from the config.yaml in OUTPUT_DIR, if it has them.

    Raises:
        DatasetError: the labels cannot be counted; raised in all processes.
    """
    if cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS != BALANCED:
        return
    weights = error = None
    if comm.is_main_process():
        try:
            weights = _saved_weights(cfg) if resume else None
            weights = weights or balanced_class_weights(cfg.DATASETS.TRAIN)
        except (OSError, DatasetError) as caught:
            error = str(caught)
    # Gathering makes the other processes wait, and lets them fail instead of hang.
    weights, error = comm.all_gather((weights, error))[0]
    if error is not None:
        raise DatasetError(f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS '{BALANCED}': {error}")
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS = weights
    if frozen:
        cfg.freeze()
    logger.info("Balanced class weights: %s", weights)


def _saved_weights(cfg: CfgNode) -> list[float] | None:
    """The weights in the config.yaml of the run, or None."""
    node = saved_config(cfg.OUTPUT_DIR)
    for key in ("MODEL", "PIXEL_LOSS", "CLASS_WEIGHTS"):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, list) else None
