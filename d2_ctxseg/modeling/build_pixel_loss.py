"""From config to pixel loss."""

import logging

from torch import Tensor, nn

from ..classifiers import PixelClassifier
from ..losses.pixel_loss import PixelLoss
from ..utils.errors import UserError
from .heads.base import SemSegHead

BALANCED = "balanced"

logger = logging.getLogger(__name__)


class UnresolvedPixelLoss(PixelLoss):
    """Stands for balanced class weights that are not known: prediction does not need them."""

    def forward(self, logits: Tensor, labels: Tensor, align_corners: bool | None = None) -> Tensor:
        """Arguments as of PixelLoss.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS is '{BALANCED}', and the weights have not been "
            "computed from the training labels. train_net.py does so; in a program of your own "
            "call d2_ctxseg.engine.balance_classes(cfg) before the model is built."
        )


def build_pixel_loss(cfg, head: nn.Module) -> PixelLoss:
    """The pixel loss of a model.

    Args:
        cfg: its MODEL.PIXEL_LOSS says what the loss is.
        head: the sem-seg head, whose own training recipe counts where the config says nothing.

    Raises:
        UserError: a value is out of its range, or the weights are not one a class.
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
    """The share of the pixels that counts in a head's own loss; logged if it is not all.

    Detectron2's DeepLabV3Head and DeepLabV3PlusHead keep a DeepLabCE as ``loss``, which says its
    share as ``top_k_percent_pixels``. MODEL.SEM_SEG_HEAD.LOSS_TYPE, by default
    "hard_pixel_mining", has a meaning for these heads only.
    """
    loss = getattr(head, "loss", None)
    share = getattr(loss, "top_k_percent_pixels", 1.0)
    name = type(head).__name__
    if share < 1:
        logger.info(
            "%s trains on hard pixels (MODEL.SEM_SEG_HEAD.LOSS_TYPE): so does the classifier, on "
            "%g of the pixels. MODEL.PIXEL_LOSS.HARD_PIXEL_SHARE 1.0 takes all.",
            name,
            share,
        )
    elif isinstance(loss, nn.Module) and not isinstance(loss, nn.CrossEntropyLoss):
        logger.warning(
            "%s has a loss of its own, %s, which the classifier does not use: its losses, and "
            "MODEL.PIXEL_LOSS, take its place.",
            name,
            type(loss).__name__,
        )
    return share


def set_pixel_loss(pixel_loss: PixelLoss, *modules: nn.Module | None) -> None:
    """Let classifier and heads share one pixel loss.

    Of heads that do not derive from SemSegHead nothing is known; they keep what they have.
    """
    for module in modules:
        if isinstance(module, (PixelClassifier, SemSegHead)):
            module.pixel_loss = pixel_loss


def _check_length(weights: list | None, num_classes: int) -> None:
    if weights is not None and len(weights) != num_classes:
        raise UserError(
            f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS has {len(weights)} numbers, expected one for each of "
            f"the {num_classes} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES)."
        )
