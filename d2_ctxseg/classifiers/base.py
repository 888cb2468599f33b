"""The contract that every classifier keeps, and the registry they are found in."""

from abc import ABCMeta, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..losses.pixel_loss import PixelLoss

CLASSIFIER_REGISTRY = Registry("CLASSIFIER")
CLASSIFIER_REGISTRY.__doc__ = "Classes that keep the contract of PixelClassifier, by their name."


class PixelClassifier(nn.Module, metaclass=ABCMeta):
    """Turns pixel features into class scores.

    A subclass takes the same arguments, passes on those that it does not use, and adds its own.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        ignore_label: label of ignored pixels.
        align_corners: how logits are interpolated to the size of the labels.
        dropout: probability of dropping a channel of the features in training.
        loss_weights: ``loss_weight_NAME=...`` for names in ``default_loss_weights``.

    Attributes:
        accumulation_steps: number of calls of ``losses`` per optimizer step; 1 unless a trainer
            sets it. Buffers such as prototypes are updated once per step, in the last of these
            calls.
        loss_weights: the weight of each loss, by its name in what ``losses`` returns.
        pixel_loss: the cross-entropy of class scores. The constructor makes a plain one with
            ``ignore_label`` and ``align_corners``; a segmentor replaces it by the one of its
            config (MODEL.PIXEL_LOSS).
    """

    #: The config node under MODEL.CLASSIFIER whose keys, in lower case, are arguments of the
    #: constructor; "" for none. A subclass inherits it.
    config_node: ClassVar[str] = ""
    #: Default weights of the losses, by name without the prefix ``loss_``. 0 leaves a loss out.
    default_loss_weights: ClassVar[dict[str, float]] = {}
    #: Whether ``forward`` and ``losses`` take ``sizes``. True for a classifier that estimates
    #: something from all pixels of an image, such as a context, and must leave the padding out.
    #: ``sizes`` is (B, 2) integer, or (1, 2) for a whole batch: height and width of the valid part
    #: of each feature map, its upper left corner. It is left out where nothing is padded.
    takes_sizes: ClassVar[bool] = False
    #: Whether there is anything to train. False: ``losses`` raises, and a training is refused.
    is_trained: ClassVar[bool] = True
    #: Names of submodules that only training needs; a stripped model has None instead.
    training_only: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        ignore_label: int = 255,
        align_corners: bool = False,
        dropout: float = 0.0,
        **loss_weights: float,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.align_corners = align_corners
        self.dropout = nn.Dropout2d(dropout)
        self.accumulation_steps = 1
        self.loss_weights = self._named_loss_weights(loss_weights)
        self.pixel_loss = PixelLoss(ignore_label=ignore_label, align_corners=align_corners)

    @classmethod
    def _named_loss_weights(cls, given: dict[str, float]) -> dict[str, float]:
        weights = {
            f"loss_weight_{name}": weight for name, weight in cls.default_loss_weights.items()
        }
        for name, weight in given.items():
            if name not in weights:
                raise TypeError(f"{cls.__name__} has no argument '{name}'.")
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name} is {weight}, expected a finite number, at least 0.")
        weights |= given
        return {name.replace("loss_weight_", "loss_"): weight for name, weight in weights.items()}

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w), float."""

    @abstractmethod
    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The training losses.

        Args:
            features: (B, C, h, w) float.
            labels: (B, H, W) of any integer dtype: 0 to K-1, or ``ignore_label``.

        Returns:
            Named scalars, weights already applied, ready to be summed.
        """

    def class_evidence(self, features: Tensor) -> Tensor:
        """How well the classes fit each pixel, before anything compares the classes with another.

        Args:
            features: (B, C, h, w).

        Returns:
            (B, K, h, w), or (B, 1, h, w) of the class that fits best; any float. Here the logits.
        """
        return self(features)

    def anomaly_score(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """How little a pixel looks like any class: minus the largest ``class_evidence``.

        Args:
            features: (B, C, h, w).
            size: (H, W) to which the evidence is interpolated; None: (h, w).

        Returns:
            (B, H, W); the larger, the stranger. Its range depends on the classifier.
        """
        evidence = self.class_evidence(features)
        if size is not None:
            evidence = F.interpolate(
                evidence, size=tuple(size), mode="bilinear", align_corners=self.align_corners
            )
        return -evidence.amax(dim=1)


def pixels_as_map(scores: Tensor, shape: torch.Size) -> Tensor:
    """Scores (B * h * w, K) of the pixels of features of ``shape`` (B, C, h, w) to (B, K, h, w).

    A view, whose classes are adjacent in memory: what the cross-entropy wants.
    """
    batch, _, height, width = shape
    return scores.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)


def make_predictor(
    in_channels: int, num_classes: int, predictor: nn.Conv2d | None = None
) -> nn.Conv2d:
    """The vanilla classifier: the given ``predictor``, or a new 1x1 convolution.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        predictor: the 1x1 convolution (C to K) that a head used before.

    Raises:
        ValueError: the predictor's weight has another shape.
    """
    if predictor is None:
        predictor = nn.Conv2d(in_channels, num_classes, kernel_size=1)
        nn.init.normal_(predictor.weight, std=0.01)
        if predictor.bias is not None:
            nn.init.zeros_(predictor.bias)
    if tuple(predictor.weight.shape) != (num_classes, in_channels, 1, 1):
        raise ValueError(
            f"The predictor's weight has shape {tuple(predictor.weight.shape)}, expected "
            f"({num_classes}, {in_channels}, 1, 1): a 1x1 convolution from the features' "
            "channels to the classes."
        )
    return predictor
