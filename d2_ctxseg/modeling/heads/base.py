"""The contract between a sem-seg head and the classifier that replaces its last layer.

Detectron2's per-pixel heads keep it (DeepLabV3Head in part, see adapter.py), and so does any
user-defined head with these members:

- ``layers(features)``: from the backbone's feature maps to the output of ``predictor``;
- ``predictor``: the last layer of ``layers``, a 1x1 convolution to the classes;
- ``common_stride``: the stride of the output of ``layers``;
- ``ignore_value``: the label that the losses ignore.

A head with losses besides those of its prediction has one more, optional member:

- ``training_layers(features, labels)``: the output of ``layers`` and a dict of these losses,
  weights applied. It replaces ``layers`` in training.

The segmentor uses all heads through the interface of ``adapter.py``.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.layers import ShapeSpec

from ...losses.pixel_loss import PixelLoss
from ...utils.errors import UserError, suggest

#: The feature maps of a backbone with four stages, from shallow to deep.
STAGES = ("res2", "res3", "res4", "res5")
# Detectron2's default of MODEL.SEM_SEG_HEAD.IN_FEATURES: the maps of its FPN.
_FPN_FEATURES = ["p2", "p3", "p4", "p5"]
CONTRACT = ("layers", "predictor", "common_stride", "ignore_value")


def classifies_by_itself(head: nn.Module) -> bool:
    """Whether a head computes class scores and losses itself (ECEHead, SegViTHead).

    Such a head has ``logits(features)`` and ``all_losses(features, labels)``.
    """
    return hasattr(head, "logits") and hasattr(head, "all_losses")


def take_predictor(head: nn.Module) -> nn.Conv2d:
    """Take the 1x1 convolution out of ``head``, so that ``head.layers()`` returns pixel features.

    An ``nn.Identity`` replaces it. Then ``release_prediction()`` is called, if the head has it, so
    that the head can drop or freeze modules that only its own prediction needs.

    Raises:
        UserError: the head does not keep the contract, or its predictor is not a 1x1 convolution.
    """
    missing = [name for name in CONTRACT if not hasattr(head, name)]
    if missing and classifies_by_itself(head):
        raise UserError(
            f"{type(head).__name__} classifies by itself and takes no classifier. Set "
            "MODEL.META_ARCHITECTURE to 'WholeHeadSegmentor', or to Detectron2's "
            "'SemanticSegmentor'."
        )
    if missing:
        raise UserError(
            f"{type(head).__name__} cannot be wrapped: it has no {', '.join(missing)}. A head "
            "needs layers(features), predictor (a 1x1 convolution, the last step of layers), "
            "common_stride and ignore_value; see docs/EXTENDING.md."
        )
    predictor = head.predictor
    if not isinstance(predictor, nn.Conv2d) or predictor.kernel_size != (1, 1):
        raise UserError(
            f"{type(head).__name__}.predictor is {predictor}, expected a 1x1 convolution "
            "(nn.Conv2d) from pixel features to classes."
        )
    head.predictor = nn.Identity()
    if hasattr(head, "release_prediction"):
        head.release_prediction()
    return predictor


def feature_names(
    cfg, input_shape: dict[str, ShapeSpec], head: str, default: Sequence[str]
) -> list[str]:
    """The feature maps of a head: those of MODEL.SEM_SEG_HEAD.IN_FEATURES.

    Args:
        cfg: the config.
        input_shape: shapes of the backbone's feature maps.
        head: the head's node, such as "FCN_HEAD". The keys ``IN_FEATURES``, ``IN_FEATURE`` and
            ``LOW_LEVEL_FEATURE`` of earlier versions take precedence where they are set in it.
        default: used where MODEL.SEM_SEG_HEAD.IN_FEATURES has Detectron2's default, the maps of an
            FPN, and the backbone has none of these.
    """
    node = cfg.MODEL[head]
    single = [node.get(key, "") for key in ("LOW_LEVEL_FEATURE", "IN_FEATURE")]
    names = list(node.get("IN_FEATURES", [])) or [name for name in single if name]
    if names:
        return names
    names = list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
    return list(default) if names == _FPN_FEATURES and not {*names} & {*input_shape} else names


def select_features(
    input_shape: dict[str, ShapeSpec], names: Sequence[str], number: int | None = None
) -> list[ShapeSpec]:
    """The shapes of the feature maps called ``names``.

    Args:
        input_shape: shapes of the backbone's feature maps.
        names: names of feature maps, at least one.
        number: the required number of names; None: any number.

    Raises:
        UserError: the number of names is wrong, or the backbone has no feature map of a name.
    """
    key = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
    if not names:
        raise UserError(f"{key} is empty; name some of {', '.join(input_shape)}.")
    if number is not None and len(names) != number:
        raise UserError(
            f"{key} is {list(names)}, but this head takes {number} feature "
            f"map{'s' if number > 1 else ''}."
        )
    missing = [name for name in names if name not in input_shape]
    if missing:
        raise UserError(
            f"{key}: the backbone has no '{missing[0]}'; it has {', '.join(input_shape)}."
            f"{suggest(missing[0], input_shape)}"
        )
    return [input_shape[name] for name in names]


def config_arguments(cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, object]:
    """The constructor arguments that all heads share, from a config."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "input_shape": input_shape,
        "num_classes": head.NUM_CLASSES,
        "loss_weight": head.LOSS_WEIGHT,
        "ignore_value": head.IGNORE_VALUE,
        "align_corners": cfg.MODEL.CLASSIFIER.ALIGN_CORNERS,
    }


class SemSegHead(nn.Module):
    """Base class of heads that keep the contract; subclasses implement ``pixel_features``.

    Args:
        in_channels: channels of the pixel features.
        num_classes: number of classes K.
        common_stride: stride of the pixel features.
        loss_weight: factor on the loss.
        ignore_value: label of ignored pixels.
        align_corners: how logits are interpolated.
        loss_name: the key of the loss.

    Attributes:
        pixel_loss: the cross-entropy of class scores. The constructor makes a plain one with
            ``ignore_value`` and ``align_corners``; a segmentor replaces it by the one of its config
            (MODEL.PIXEL_LOSS).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        common_stride: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
        loss_name: str = "loss_sem_seg",
    ):
        super().__init__()
        self.predictor = nn.Conv2d(in_channels, num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.align_corners = align_corners
        self.loss_name = loss_name
        self.pixel_loss = PixelLoss(ignore_label=ignore_value, align_corners=align_corners)

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's feature maps to pixel features (B, C, h, w)."""
        raise TypeError(f"{type(self).__name__} does not implement pixel_features")

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's feature maps to the output of the predictor: logits (B, K, h, w)."""
        return self.predictor(self.pixel_features(features))

    def training_layers(
        self, features: dict[str, Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output of ``layers``, and the losses besides that of the prediction.

        Args:
            features: the backbone's feature maps.
            labels: (B, H, W) integer.

        Returns:
            (B, K, h, w), and a dict of weighted scalars; here an empty one.
        """
        return self.layers(features), {}

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Weighted cross-entropy of logits (B, K, h, w) against labels (B, H, W)."""
        return {self.loss_name: self.loss_weight * self.pixel_loss(predictions, targets)}

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None):
        """As Detectron2's heads: (None, losses) in training, (logits at stride 1, {}) otherwise."""
        if self.training:
            predictions, losses = self.training_layers(features, targets)
            return None, self.losses(predictions, targets) | losses
        predictions = F.interpolate(
            self.layers(features),
            scale_factor=self.common_stride,
            mode="bilinear",
            align_corners=self.align_corners,
        )
        return predictions, {}
