"""Explicit class classifier: class embeddings made from masks, for the features of any head.

The idea of ECENet (Liu et al., ICCV 2023, arXiv 2308.12894) on one feature map. ECENet's own decode
head is ``ECEHead``.
"""

from typing import NamedTuple

from torch import Tensor, nn

from ..losses.checks import check_choice
from ..losses.mask_losses import MASK_LOSSES, weighted_mask_losses
from .base import CLASSIFIER_REGISTRY, PixelClassifier, make_predictor
from .explicit_class_parts import (
    AssistedScores,
    EmbeddingUpdater,
    ExplicitClassExtraction,
    SemanticsAttention,
)

# Upper bound of the default width of the embeddings: the paper's width.
_MAX_DEFAULT_CHANNELS = 256


class ExplicitClassPrediction(NamedTuple):
    """``logits`` and ``auxiliary_mask`` (B, K, h, w), ``class_embeddings`` (B, K, C')."""

    logits: Tensor
    auxiliary_mask: Tensor
    class_embeddings: Tensor


@CLASSIFIER_REGISTRY.register()
class ExplicitClassClassifier(PixelClassifier):
    """A classifier with one embedding per class, made from the class's mask.

    The vanilla logits are seed masks. They are pooled to class embeddings. The pixels attend to the
    embeddings, which refines the features and gives a second mask per class. The second mask
    updates the embeddings. The logits are a 1x1 convolution of the refined features plus the masks,
    which are weighted with the probability that an embedding is recognised as its class.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        channels: channels C' of embeddings, attention and refined features; None: C, at most 256.
            Where C' is not C, a 1x1 convolution comes first.
        num_heads: number of attention heads; divides C'.
        mlp_ratio: hidden channels of the attention's MLP as a multiple of C'. ECENet's head has 4;
            1 about halves the cost of the classifier.
        pool_ratio: factor on the side of the finest grid that masks are pooled to.
        mask_loss: ``"focal"`` (sigmoid focal loss) or ``"bce"`` (binary cross-entropy).
        ignore_label, align_corners, dropout: see PixelClassifier.
        predictor: the 1x1 convolution of the seed masks; a new one if None.
        loss_weights: ``loss_weight_mask`` and ``loss_weight_dice``, of the binary mask loss and the
            dice loss of the seed masks; 0 leaves a loss out.

    Raises:
        ValueError: an argument does not fit the others; the message says which.
    """

    config_node = "EXPLICIT_CLASS"
    default_loss_weights = {"mask": 5.0, "dice": 2.0}
    takes_sizes = True

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int | None = None,
        num_heads: int = 4,
        mlp_ratio: float = 1.0,
        pool_ratio: float = 1.0,
        mask_loss: str = "focal",
        ignore_label: int = 255,
        align_corners: bool = False,
        dropout: float = 0.0,
        predictor: nn.Conv2d | None = None,
        **loss_weights: float,
    ):
        super().__init__(
            in_channels,
            num_classes,
            ignore_label=ignore_label,
            align_corners=align_corners,
            dropout=dropout,
            **loss_weights,
        )
        check_choice("mask_loss", mask_loss, tuple(MASK_LOSSES))
        if channels is None:
            channels = min(in_channels, _MAX_DEFAULT_CHANNELS)
        self.mask_loss = mask_loss
        self.predictor = make_predictor(in_channels, num_classes, predictor)
        self.lateral: nn.Module = nn.Identity()
        if channels != in_channels:
            self.lateral = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.seed_extraction = ExplicitClassExtraction(num_classes, channels, pool_ratio=pool_ratio)
        self.attention = SemanticsAttention(channels, num_heads=num_heads, mlp_ratio=mlp_ratio)
        self.extraction = ExplicitClassExtraction(num_classes, channels, pool_ratio=pool_ratio)
        self.updater = EmbeddingUpdater(channels)
        self.refined_predictor = make_predictor(channels, num_classes)
        self.assistance = AssistedScores(channels, num_classes)

    def forward(self, features: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Features (B, C, h, w) and their valid sizes to the assisted logits (B, K, h, w)."""
        return self.predict(features, sizes).logits

    def predict(self, features: Tensor, sizes: Tensor | None = None) -> ExplicitClassPrediction:
        """Features to logits, seed masks (before a sigmoid) and class embeddings.

        Args:
            features: (B, C, h, w).
            sizes: sizes of the valid parts of the features, see ``PixelClassifier.takes_sizes``;
                None where nothing is padded. The embeddings leave the padding out.
        """
        features = self.dropout(features)
        seed = self.predictor(features)
        embeddings = self.seed_extraction(seed, sizes)
        refined, mask = self.attention(self.lateral(features), embeddings, sizes)
        embeddings = self.updater(self.extraction(mask, sizes), embeddings)
        logits = self.refined_predictor(refined) + self.assistance(embeddings, seed + mask)
        return ExplicitClassPrediction(logits, seed, embeddings)

    def losses(
        self, features: Tensor, labels: Tensor, sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted losses: features (B, C, h, w), labels (B, H, W) integers, valid sizes.

        Returns:
            ``loss_sem_seg`` (cross-entropy of the assisted prediction), ``loss_mask`` and
            ``loss_dice`` (of the seed masks, at their resolution); those with weight 0 are left
            out.
        """
        prediction = self.predict(features, sizes)
        return {
            "loss_sem_seg": self.pixel_loss(prediction.logits, labels),
            **weighted_mask_losses(
                prediction.auxiliary_mask,
                labels,
                ignore_label=self.ignore_label,
                mask_loss=self.mask_loss,
                weight_mask=self.loss_weights["loss_mask"],
                weight_dice=self.loss_weights["loss_dice"],
            ),
        }
