"""Those of Detectron2's heads that keep the contract only in part."""

import logging
import types

from torch import nn

logger = logging.getLogger(__name__)


def adapt_detectron2_head(head: nn.Module) -> nn.Module:
    """The head, or the part of it, that keeps the contract of ``heads.base``.

    - PointRend's head gives the coarse head inside it, which predicts every pixel.
    - DeepLabV3Head does in ``forward`` what others do in ``layers``: it gets the method.

    Any other head is returned as it is.
    """
    if hasattr(head, "coarse_sem_seg_head"):
        logger.warning("%s: its coarse head is used; points are not refined.", type(head).__name__)
        return adapt_detectron2_head(head.coarse_sem_seg_head)
    if type(head).__name__ == "DeepLabV3Head" and not hasattr(head, "layers"):
        head.layers = types.MethodType(_deeplab_v3_layers, head)
    return head


def _deeplab_v3_layers(head: nn.Module, features: dict):
    return head.predictor(head.aspp(features[head.in_features[0]]))
