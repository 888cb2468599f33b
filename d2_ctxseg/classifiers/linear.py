"""The vanilla classifier: a 1x1 convolution, the same for every image."""

from torch import Tensor, nn

from .base import CLASSIFIER_REGISTRY, PixelClassifier, make_predictor


@CLASSIFIER_REGISTRY.register()
class LinearClassifier(PixelClassifier):
    """The baseline: a 1x1 convolution, trained with cross-entropy.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        ignore_label, align_corners, dropout: see PixelClassifier.
        predictor: the 1x1 convolution to start from; a new one if None.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        ignore_label: int = 255,
        align_corners: bool = False,
        dropout: float = 0.0,
        predictor: nn.Conv2d | None = None,
    ):
        super().__init__(
            in_channels,
            num_classes,
            ignore_label=ignore_label,
            align_corners=align_corners,
            dropout=dropout,
        )
        self.predictor = make_predictor(in_channels, num_classes, predictor)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w)."""
        return self.predictor(self.dropout(features))

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy at the resolution of ``labels`` (B, H, W): ``{"loss_sem_seg"}``."""
        return {"loss_sem_seg": self.pixel_loss(self(features), labels)}
