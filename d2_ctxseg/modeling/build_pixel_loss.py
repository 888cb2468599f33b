"""Builds the pixel loss of a config."""

import logging

from torch import Tensor, nn

from ..classifiers import PixelClassifier
from ..losses.pixel_loss import PixelLoss
from ..utils.errors import UserError, counted
from .heads.base import SemSegHead

BALANCED = "balanced"

logger = logging.getLogger(__name__)


class UnresolvedPixelLoss(PixelLoss):
    """The pixel loss of a model whose balanced class weights are not computed.

    A model that only predicts does not need them.
    """

    def forward(self, logits: Tensor, labels: Tensor, align_corners: bool | None = None) -> Tensor:
        """The arguments are those of PixelLoss.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS is '{BALANCED}', but the weights have not been "
            "computed from the training labels. d2-ctxseg train computes them; in a program of "
            "your own, call d2_ctxseg.engine.balance_classes(cfg) before you build the model."
        )


def build_pixel_loss(cfg, head: nn.Module) -> PixelLoss:
    """The pixel loss of a model.

    Args:
        cfg: MODEL.PIXEL_LOSS has the options of the loss.
        head: the sem-seg head; its own training recipe holds where the config leaves it open.

    Raises:
        UserError: a value is out of its range, or the number of weights is not that of the classes.
    """
    options = cfg.MODEL.PIXEL_LOSS
    share = options.HARD_PIXEL_SHARE
    weights = options.CLASS_WEIGHTS or None
    if isinstance(weights, str):
        if weights != BALANCED:
            raise UserError(
                f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS is '{weights}', expected a list of numbers, "
                f"'{BALANCED}' or None."
            )
        weights, loss_class = None, UnresolvedPixelLoss
    else:
        loss_class = PixelLoss
    _check_length(weights, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    try:
        return loss_class(
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            align_corners=cfg.MODEL.CLASSIFIER.ALIGN_CORNERS,
            class_weights=weights,
            hard_pixel_share=share_of_head(head) if share is None else share,
            hard_pixel_threshold=options.HARD_PIXEL_THRESHOLD,
            label_smoothing=options.LABEL_SMOOTHING,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"MODEL.PIXEL_LOSS: {error}") from error


def share_of_head(head: nn.Module) -> float:
    """The share of the pixels that counts in a head's own loss; logged if it is below 1.

    Detectron2's DeepLabV3Head and DeepLabV3PlusHead have a DeepLabCE as ``loss``, whose
    ``top_k_percent_pixels`` is the share. Only these heads read MODEL.SEM_SEG_HEAD.LOSS_TYPE, which
    is "hard_pixel_mining" by default.
    """
    loss = getattr(head, "loss", None)
    share = getattr(loss, "top_k_percent_pixels", 1.0)
    name = type(head).__name__
    if share < 1:
        logger.info(
            "%s trains on hard pixels (MODEL.SEM_SEG_HEAD.LOSS_TYPE), and so does the classifier: "
            "the share of the pixels is %g. MODEL.PIXEL_LOSS.HARD_PIXEL_SHARE 1.0 trains on all.",
            name,
            share,
        )
    elif isinstance(loss, nn.Module) and not isinstance(loss, nn.CrossEntropyLoss):
        logger.warning(
            "%s has a loss of its own, %s, which is not used: the classifier's losses and "
            "MODEL.PIXEL_LOSS replace it.",
            name,
            type(loss).__name__,
        )
    return share


def set_pixel_loss(pixel_loss: PixelLoss, *modules: nn.Module | None) -> None:
    """Let classifier and heads share one pixel loss.

    Heads that do not derive from SemSegHead keep their own loss.
    """
    for module in modules:
        if isinstance(module, (PixelClassifier, SemSegHead)):
            module.pixel_loss = pixel_loss


def _check_length(weights: list | None, num_classes: int) -> None:
    if weights is not None and len(weights) != num_classes:
        raise UserError(
            f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS has {counted(len(weights), 'number')}, expected one "
            f"for each class; there are {num_classes} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)."
        )
