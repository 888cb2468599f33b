"""The modules of explicit class embeddings.

Liu et al., "Boosting Semantic Segmentation from the Perspective of Explicit Class Embeddings"
(ECENet), ICCV 2023 (arXiv 2308.12894), section 3. Where the paper is not specific, they follow the
authors' released code.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.functional import zero_outside
from ..losses.precision import at_least_float32, without_autocast


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map (B, C, h, w)."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pool_sizes(num_classes: int, ratio: float = 1.0) -> tuple[int, ...]:
    """Side lengths of the grids that a mask is pooled to: 1, 2, 3, 6 and the odd n.

    n is the odd number at or just above the floor of ``ratio * sqrt(num_classes)``.
    """
    side = int(math.sqrt(num_classes) * ratio)
    return (1, 2, 3, 6, side + 1 - side % 2)


class PyramidAveragePool(nn.Module):
    """Adaptive average pooling to several square grids at once.

    Pooling is a product with one averaging matrix for the rows and one for the columns. Sizes that
    do not divide each other can therefore be exported to ONNX, and the gradient is deterministic.

    Args:
        sizes: side length of each grid.
    """

    index: Tensor
    count: Tensor

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.sizes = tuple(sizes)
        # For each row of each grid its index and the number of rows of the grid.
        index = torch.cat([torch.arange(size) for size in self.sizes])
        count = torch.cat([torch.full((size,), size) for size in self.sizes])
        self.register_buffer("index", index[:, None], persistent=False)
        self.register_buffer("count", count[:, None], persistent=False)

    def forward(self, masks: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Pool masks to all grids.

        Args:
            masks: (B, K, h, w).
            sizes: (B, 2) or (1, 2) integer, height and width of the upper left part of each mask
                that is pooled; None: the whole mask.

        Returns:
            (B, K, sum of size squared), at least float32: the grids in the order of ``sizes``,
            each row by row.
        """
        height, width = masks.shape[-2:]
        valid_height: int | Tensor = height
        valid_width: int | Tensor = width
        if sizes is not None:
            valid_height, valid_width = (side[:, None, None, None] for side in sizes.unbind(1))
        # Fractions such as 1/43 and sums over many pixels need more than half precision.
        with without_autocast(masks.device):
            masks = at_least_float32(masks)
            pooled_rows = self._averaging_matrix(height, valid_height, masks.dtype) @ masks
            columns = self._averaging_matrix(width, valid_width, masks.dtype)
            grids = [
                (rows @ matrix.transpose(-2, -1)).flatten(2)
                for rows, matrix in zip(
                    pooled_rows.split(self.sizes, dim=2), columns.split(self.sizes, dim=-2)
                )
            ]
            return torch.cat(grids, dim=2)

    def _averaging_matrix(self, length: int, valid: int | Tensor, dtype: torch.dtype) -> Tensor:
        """(..., sum of sizes, length); each row averages the positions of one bin.

        The bins are those of ``adaptive_avg_pool`` on the first ``valid`` positions: from
        ``floor(i * valid / size)`` inclusive to ``ceil((i + 1) * valid / size)`` exclusive.
        """
        start = self.index * valid // self.count
        end = ((self.index + 1) * valid + self.count - 1) // self.count
        position = torch.arange(length, device=self.index.device)
        inside = (position >= start) & (position < end)
        return inside.to(dtype) / (end - start).to(dtype)


class ExplicitClassExtraction(nn.Module):
    """Makes one embedding per class from the class's mask (ECE).

    A mask is average-pooled to several grids. A linear layer, shared by all classes, maps the
    values of the grids to the embedding.

    Args:
        num_classes: number of classes K; it determines the finest grid.
        channels: channels C of the embeddings.
        pool_ratio: factor on the side of the finest grid, see ``pool_sizes``.

    Raises:
        ValueError: ``pool_ratio`` is not positive.
    """

    def __init__(self, num_classes: int, channels: int, *, pool_ratio: float = 1.0):
        super().__init__()
        if pool_ratio <= 0:
            raise ValueError(f"pool_ratio is {pool_ratio}, expected a positive number.")
        sizes = pool_sizes(num_classes, pool_ratio)
        self.pool = PyramidAveragePool(sizes)
        self.projection = nn.Linear(sum(size**2 for size in sizes), channels)

    def forward(self, masks: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Masks (B, K, h, w), before a sigmoid, and their valid sizes to embeddings (B, K, C)."""
        return self.projection(self.pool(masks, sizes).to(self.projection.weight.dtype))


class SemanticsAttention(nn.Module):
    """Pixels attend to class embeddings; their similarity is a new mask (SA).

    A pre-norm transformer layer whose MLP has a depthwise convolution. The attention is
    ``softmax(max_K S - S)`` of the similarity S, as in the authors' code: the less similar a class
    is to the pixel, the larger is its weight.

    Args:
        channels: channels C of features and embeddings.
        num_heads: number of attention heads; divides C.
        mlp_ratio: hidden channels of the MLP, as a multiple of C.

    Raises:
        ValueError: ``num_heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, *, num_heads: int = 4, mlp_ratio: float = 4.0):
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"num_heads is {num_heads}, expected a divisor of the {channels} channels."
            )
        hidden = int(channels * mlp_ratio)
        self.num_heads = num_heads
        self.feature_norm = ChannelLayerNorm(channels)
        self.embedding_norm = nn.LayerNorm(channels)
        self.query = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels),
            nn.Conv2d(channels, channels, kernel_size=1),
        )
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.projection = nn.Conv2d(channels, channels, kernel_size=1)
        self.mlp_norm = ChannelLayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, kernel_size=1),
        )

    def forward(
        self, features: Tensor, embeddings: Tensor, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Refine the features with the class embeddings.

        Args:
            features: (B, C, h, w).
            embeddings: (B, K, C).
            sizes: (B, 2) or (1, 2) integer, sizes of the valid parts of the features. The
                convolutions see zeros beyond them. None: the whole map is valid.

        Returns:
            The refined features (B, C, h, w), and the new mask (B, K, h, w): the similarity of
            pixels and classes, averaged over the heads.
        """
        query = self.query(zero_outside(self.feature_norm(features), sizes))
        key, value = self.key_value(self.embedding_norm(embeddings)).chunk(2, dim=2)
        attended = dissimilarity_attention(query, key, value, self.num_heads)
        features = features + self.projection(attended)
        expand, depthwise, activation, reduce = self.mlp
        hidden = zero_outside(expand(self.mlp_norm(features)), sizes)
        features = features + reduce(activation(depthwise(hidden)))
        return features, mean_similarity(query, key, self.num_heads)


def dissimilarity_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention of positions to classes, with ``softmax(max_K S - S)``.

    ``S = q k / sqrt(C / num_heads)``. The maximum is the same for all classes of a pixel and
    cancels in the softmax. This is therefore the usual attention with negated queries, which has
    fast kernels that never store S.

    Args:
        query: (B, C, h, w).
        key: (B, K, C).
        value: (B, K, C).
        num_heads: divides C.

    Returns:
        (B, C, h, w).
    """
    positions = query.flatten(2).transpose(1, 2).contiguous()
    heads = [x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (positions.neg(), key, value)]
    attended = F.scaled_dot_product_attention(*heads)
    return attended.transpose(2, 3).flatten(1, 2).unflatten(2, query.shape[-2:])


def mean_similarity(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """The scaled dot products of positions (B, C, h, w) and classes (B, K, C), mean over heads.

    The sum over the heads is the dot product over all channels.

    Returns:
        (B, K, h, w).
    """
    scale = (query.shape[1] // num_heads) ** -0.5 / num_heads
    return ((key * scale) @ query.flatten(2)).unflatten(2, query.shape[-2:])


class EmbeddingUpdater(nn.Module):
    """Updates class embeddings with newly extracted ones through a gate (U).

    Args:
        channels: channels C of the embeddings.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.extracted_layer = nn.Linear(channels, 2 * channels)
        self.current_layer = nn.Linear(channels, channels)
        self.gate_layer = nn.Linear(channels, channels)
        self.gate_norm = nn.LayerNorm(channels)
        self.extracted_norm = nn.LayerNorm(channels)
        self.output_layer = nn.Linear(channels, channels)
        self.output_norm = nn.LayerNorm(channels)

    def forward(self, extracted: Tensor, current: Tensor) -> Tensor:
        """Embeddings of the new mask and current embeddings, (B, K, C) each, to updated ones."""
        for_gate, for_output = self.extracted_layer(extracted).chunk(2, dim=-1)
        gate = self.gate_norm(self.gate_layer(self.current_layer(current) * for_gate)).sigmoid()
        updated = gate * self.extracted_norm(for_output) + current
        return F.relu(self.output_norm(self.output_layer(updated)))


class AssistedScores(nn.Module):
    """Masks weighted with the certainty of their class embeddings, to be added to the scores.

    ``diag(softmax(Linear(E))) * sigmoid(mask)``. The linear layer classifies the embeddings; the
    diagonal is the probability that the embedding of a class is recognised as that class.

    Args:
        channels: channels C of the embeddings.
        num_classes: number of classes K.
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.classify = nn.Linear(channels, num_classes)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (B, K, C) and summed masks (B, K, h, w) to scores (B, K, h, w) in 0 to 1."""
        certainty = self.classify(embeddings).softmax(dim=2).diagonal(dim1=1, dim2=2)
        return certainty[:, :, None, None] * mask.sigmoid()
