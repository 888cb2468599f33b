"""Several learned weight vectors per class: the parametric baseline of nonparametric prototypes.

Zhou et al., "Rethinking Semantic Segmentation: A Prototype View", CVPR 2022 (arXiv 2203.15102),
Table 4, "parametric". The authors did not release its code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.checks import check_choice
from .base import CLASSIFIER_REGISTRY, PixelClassifier

SCORES = ("max", "logsumexp")


@CLASSIFIER_REGISTRY.register()
class LearnedPrototypeClassifier(PixelClassifier):
    """The score of a class is the largest inner product with its M weight vectors.

    With one vector per class it is a 1x1 convolution without bias. Unlike the prototypes of
    PrototypeClassifier the vectors are parameters, trained by the cross-entropy alone.

    Args:
        in_channels: channels C of the features and of the vectors.
        num_classes: number of classes K.
        num_prototypes: vectors M of each class.
        score: the reduction of the M inner products to the score of a class: "max", the paper's
            rule for its nonparametric prototypes, or "logsumexp", with which all vectors of a class
            learn from each of its pixels. The paper does not state its choice.
        ignore_label: label of ignored pixels.
        align_corners: how logits are interpolated to the size of the labels.
        dropout: probability of dropping a channel of the features in training.
        predictor: the head's 1x1 convolution; not used, the vectors replace it.

    Raises:
        ValueError: ``num_prototypes`` is below 1, or ``score`` is unknown.
    """

    config_node = "LEARNED_PROTOTYPE"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_prototypes: int = 10,
        score: str = "max",
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
        check_choice("score", score, SCORES)
        if num_prototypes < 1:
            raise ValueError(f"num_prototypes is {num_prototypes}, expected 1 or more.")
        self.num_prototypes = num_prototypes
        self.score = score
        self.weight = nn.Parameter(torch.empty(num_classes, num_prototypes, in_channels))
        nn.init.normal_(self.weight, std=0.01)  # as in the vanilla classifier

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w)."""
        products = self.inner_products(self.dropout(features))
        if self.score == "max":
            return products.amax(dim=2)
        return products.logsumexp(dim=2)

    def inner_products(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to their products with all vectors, (B, K, M, h, w)."""
        kernel = self.weight.flatten(0, 1)[:, :, None, None]
        return F.conv2d(features, kernel).unflatten(1, self.weight.shape[:2])

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy at the resolution of ``labels`` (B, H, W): ``{"loss_sem_seg"}``."""
        return {"loss_sem_seg": self.pixel_loss(self(features), labels)}
