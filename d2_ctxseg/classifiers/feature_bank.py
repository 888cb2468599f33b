"""A bank of labelled pixel features: a pixel is what its nearest neighbours in the bank are.

Balazevic et al., "Towards In-Context Scene Understanding" (Hummingbird), NeurIPS 2023
(arXiv 2306.01667), section 3.1: cross-attention from pixels to the bank, in the place of a trained
classifier. ``deployment/feature_bank.py`` fills the bank from labelled images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.checks import check_positive
from ..losses.precision import at_least_float32, without_autocast
from .base import CLASSIFIER_REGISTRY, PixelClassifier, pixels_as_map

# Similarities in a chunk of pixels: 16 MiB of float32 on a CPU, 256 MiB elsewhere.
_CHUNK_ELEMENTS = {"cpu": 2**22}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26
# The least share of a class, so that its logarithm is finite.
_LEAST_SHARE = 1e-4


@CLASSIFIER_REGISTRY.register()
class FeatureBankClassifier(PixelClassifier):
    """The classes of a pixel are those of its k nearest features in a bank, weighted by nearness.

    With features f_j of unit length, their class shares y_j (K,) and weights w_j in the bank, and
    the k nearest ones N(x) of a pixel feature x of unit length::

        a_j = softmax over j in N(x) of (<x, f_j> / temperature + prior * log w_j)
        logits = log(max(sum_j a_j y_j, 1e-4))

    Nothing is trained: the bank is filled from labelled images (``fill``, or
    ``tools/build_feature_bank.py``) and saved with the model. An unfilled bank gives all classes
    the same logits.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        size: features S in the bank; it takes 4 S (C + K + 1) bytes. A bank that was filled has
            the size that it was filled with.
        num_neighbors: nearest features k that vote; all where the bank has fewer.
        temperature: temperature of the softmax over them.
        prior: how far frequent classes are favoured. The bank has about as many features of each
            class; 0 leaves it at that, 1 gives each feature the weight of the pixels that it
            stands for.
        ignore_label: label of pixels that belong to no class.
        align_corners: how logits are interpolated to the size of the labels.
        dropout: there is no training, so it is not used.
        predictor: the head's 1x1 convolution, which the bank replaces: not used.

    Raises:
        ValueError: an option is out of its range.
    """

    config_node = "FEATURE_BANK"
    is_trained = False
    features: Tensor
    shares: Tensor
    weights: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        size: int = 20_000,
        num_neighbors: int = 30,
        temperature: float = 0.02,
        prior: float = 0.5,
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
        check_positive(size=size, num_neighbors=num_neighbors, temperature=temperature)
        if prior < 0:
            raise ValueError(f"prior is {prior}, expected at least 0.")
        self.num_neighbors = num_neighbors
        self.temperature = temperature
        self.prior = prior
        self.fill(
            torch.zeros(size, in_channels),
            torch.full((size, num_classes), 1 / num_classes),
            torch.ones(size),
        )

    @torch.no_grad()
    def fill(self, features: Tensor, shares: Tensor, weights: Tensor) -> None:
        """Put these in place of the bank.

        Args:
            features: (S, C) float; brought to unit length.
            shares: (S, K): the shares of the classes in the pixels that a feature stands for, of
                sum 1.
            weights: (S,) above 0: how many pixels of an image a feature stands for, on average.

        Raises:
            ValueError: the shapes do not fit each other or the features, or the bank is empty.
        """
        if not len(features) == len(shares) == len(weights) or len(features) == 0:
            raise ValueError(
                f"The bank has {len(features)} features, {len(shares)} class shares and "
                f"{len(weights)} weights, expected as many of each, at least one."
            )
        if features.shape[1] != self.in_channels:
            raise ValueError(
                f"The bank's features have {features.shape[1]} channels, expected "
                f"{self.in_channels} as the features to be classified."
            )
        self.num_classes = shares.shape[1]
        self.register_buffer("features", F.normalize(at_least_float32(features), dim=1))
        self.register_buffer("shares", at_least_float32(shares))
        self.register_buffer("weights", at_least_float32(weights))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w): logarithms of shares of sum 1."""
        shares = torch.cat(
            [self._vote(*nearest) for nearest in self._nearest(self.embed(features))]
        )
        return pixels_as_map(shares.clamp(min=_LEAST_SHARE).log(), features.shape).contiguous()

    def class_evidence(self, features: Tensor) -> Tensor:
        """The mean cosine (B, 1, h, w) of each pixel to its k nearest features, -1 to 1.

        The shares do not tell: they are of sum 1 however far the neighbours are.
        """
        nearest = self._nearest(self.embed(features))
        similarity = torch.cat([similarity.mean(dim=1, keepdim=True) for similarity, _ in nearest])
        return pixels_as_map(similarity, features.shape).contiguous()

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to pixel features (B * h * w, C) of unit length, as in the bank."""
        return F.normalize(at_least_float32(features).permute(0, 2, 3, 1).flatten(0, 2), dim=1)

    def _nearest(self, embeddings: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Cosines (n, k) and indices (n, k) of the nearest features, by chunks of n pixels."""
        budget = _CHUNK_ELEMENTS.get(embeddings.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
        # An exported graph has no loop; it holds the similarities of all pixels at once.
        exporting = torch.compiler.is_exporting()
        length = max(1, budget // len(self.features))
        chunks = [embeddings] if exporting else embeddings.split(length)
        k = min(self.num_neighbors, len(self.features))
        table = self.features.to(embeddings.dtype).T
        with without_autocast(embeddings.device):
            return [tuple((chunk @ table).topk(k, dim=1)) for chunk in chunks]

    def _vote(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Class shares (n, K) from the cosines (n, k) and indices (n, k) of neighbours."""
        attention = similarity / self.temperature
        if self.prior:
            attention = attention + self.prior * self.weights.to(similarity.dtype).log()[index]
        shares = self.shares.to(similarity.dtype)[index]
        return (attention.softmax(dim=1)[..., None] * shares).sum(dim=1)

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """There are none: RuntimeError."""
        raise RuntimeError(
            "A feature bank is not trained and has no losses: d2-ctxseg build-bank fills it "
            "from labelled images."
        )
