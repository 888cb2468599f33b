"""The vanilla classifier: a 1x1 convolution, the same for every image."""

from torch import Tensor

from .base import CLASSIFIER_REGISTRY, PixelClassifier
from .functional import segmentation_cross_entropy


@CLASSIFIER_REGISTRY.register()
class LinearClassifier(PixelClassifier):
    """A 1x1 convolution with cross-entropy, the baseline. Arguments as PixelClassifier."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w)."""
        return self.predictor(features)

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy at the resolution of ``labels`` (B, H, W): ``{"loss_sem_seg"}``."""
        loss = segmentation_cross_entropy(
            self(features), labels, self.ignore_label, self.align_corners
        )
        return {"loss_sem_seg": loss}
