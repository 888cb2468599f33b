"""One interface to all heads: this project's, Detectron2's and users' own."""

import logging
import types

from torch import Tensor, nn

from detectron2.modeling import build_sem_seg_head

from ...utils.errors import UserError
from .base import SemSegHead, classifies_by_itself

LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")

logger = logging.getLogger(__name__)


class HeadAdapter:
    """The interface of a head that the segmentor uses.

    The adapter is not a module, so that checkpoint keys remain those of the head. ``heads.base``
    lists the members that a head needs.

    Args:
        head: a head whose predictor was taken out, or one that classifies by itself.
    """

    def __init__(self, head: nn.Module):
        self.head = head

    @property
    def classifies_by_itself(self) -> bool:
        """Whether the head computes class scores and losses itself."""
        return classifies_by_itself(self.head)

    @property
    def ignore_label(self) -> int:
        """The label that the head's losses ignore."""
        return self.head.ignore_value

    @property
    def align_corners(self) -> bool:
        """How the head's class scores are interpolated; False by default."""
        return getattr(self.head, "align_corners", False)

    @property
    def loss_weight(self) -> float:
        """The factor on the classifier's losses; 1 by default."""
        return getattr(self.head, "loss_weight", 1.0)

    def pixel_features(
        self, features: dict[str, Tensor], labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pixel features for a classifier, and the losses of predictions inside the head.

        Args:
            features: the backbone's feature maps.
            labels: (B, H, W) integer; None at test time.

        Returns:
            (B, C, h, w), and a dict of scalars with their weights applied, empty without labels.
        """
        if labels is not None and hasattr(self.head, "training_layers"):
            return self.head.training_layers(features, labels)
        return self.head.layers(features), {}

    def class_scores(self, features: dict[str, Tensor]) -> Tensor:
        """The logits (B, K, h, w) of a head in eval mode that classifies by itself.

        ``forward`` computes them, because the head chooses the resolution in which it combines
        masks.
        """
        return self.head(features)[0]

    def losses(self, features: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """All weighted losses of a head that classifies by itself; labels (B, H, W)."""
        return self.head.all_losses(features, labels)


def build_head(cfg, input_shape) -> nn.Module:
    """The head of a config, in a form that HeadAdapter accepts.

    Args:
        cfg: MODEL.SEM_SEG_HEAD.NAME names the head.
        input_shape: shapes of the backbone's feature maps.

    Raises:
        UserError: MODEL.SEM_SEG_HEAD.LOSS_TYPE is unknown to a head that reads it, or its
            IN_FEATURES names no feature map of the backbone.
    """
    options = cfg.MODEL.SEM_SEG_HEAD
    try:
        head = build_sem_seg_head(cfg, input_shape)
    except UserError:
        raise
    except ValueError as error:
        if "loss type" in str(error):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is '{options.LOSS_TYPE}', expected one of "
                f"{', '.join(LOSS_TYPES)}."
            ) from error
        if not set(options.IN_FEATURES) & set(input_shape):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {options.IN_FEATURES}, but the backbone has "
                f"{', '.join(input_shape)}. Name some of these."
            ) from error
        raise
    _warn_of_norm(options.NORM, head)
    return adapt_detectron2_head(head)


def _warn_of_norm(norm: str, head: nn.Module) -> None:
    """Warn of a MODEL.SEM_SEG_HEAD.NORM that a head of this project ignores; see config.py."""
    if isinstance(head, SemSegHead) and norm not in ("GN", "BN", ""):
        logger.warning(
            "MODEL.SEM_SEG_HEAD.NORM '%s' has no effect: %s has the normalisation of its paper. "
            "MODEL.SYNC_BN True computes the statistics of BatchNorm over all GPUs.",
            norm,
            type(head).__name__,
        )


def adapt_detectron2_head(head: nn.Module) -> nn.Module:
    """The head, or the part of it, that keeps the contract of ``heads.base``.

    - PointRend's head is replaced by its coarse head, which predicts every pixel.
    - DeepLabV3Head gets the missing method ``layers``.

    Any other head is returned unchanged.
    """
    if hasattr(head, "coarse_sem_seg_head"):
        logger.warning(
            "%s: only its coarse head is used; points are not refined.", type(head).__name__
        )
        return adapt_detectron2_head(head.coarse_sem_seg_head)
    if type(head).__name__ == "DeepLabV3Head" and not hasattr(head, "layers"):
        head.layers = types.MethodType(_deeplab_v3_layers, head)
    return head


def _deeplab_v3_layers(head: nn.Module, features: dict):
    return head.predictor(head.aspp(features[head.in_features[0]]))
