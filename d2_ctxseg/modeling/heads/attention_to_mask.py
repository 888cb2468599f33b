"""The attention-to-mask decoder: tokens attend to pixels, and the similarities are masks.

Zhang et al., "SegViT: Semantic Segmentation with Plain Vision Transformers", NeurIPS 2022
(arXiv 2210.05844), section 3.2. Plain PyTorch.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ...losses.precision import at_least_float32, without_autocast


class SimilarityAttention(nn.Module):
    """Multi-head cross-attention that also returns its similarities.

    Args:
        channels: channels C of tokens and pixels.
        num_heads: number of heads; divides C.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, channels: int, num_heads: int, dropout: float = 0.1):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K, C) attend to pixels (B, N, C).

        Returns:
            The attended values (B, K, C), and the similarity (B, K, N) before the softmax, mean
            over the heads, at least float32.
        """
        query, key, value = self.query(tokens), self.key(pixels), self.value(pixels)
        heads = [x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value)]
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(*heads, dropout_p=dropout)
        seen = self.projection(seen.transpose(1, 2).flatten(2))
        return seen, mean_similarity(query, key, self.num_heads)


def mean_similarity(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Scaled dot products ``q k / sqrt(C / num_heads)`` within each head, mean over the heads.

    The sum over the heads is the dot product over all channels, so that one product is enough.

    Args:
        query: (B, K, C).
        key: (B, N, C).
        num_heads: divides C.

    Returns:
        (B, K, N), float32 or more precise.
    """
    scale = (query.shape[2] // num_heads) ** -0.5 / num_heads
    # Mask logits of several stages are added, which needs more than half precision.
    with without_autocast(query.device):
        query, key = at_least_float32(query), at_least_float32(key)
        return (query * scale) @ key.transpose(1, 2)


class AttentionToMaskLayer(nn.Module):
    """Self-attention of the tokens, attention to the pixels, MLP; each residual with post-norm.

    Args:
        channels: channels C of tokens and pixels.
        num_heads: number of heads of both attentions; divides C.
        dropout: probability of dropping attention weights and activations in training.
    """

    def __init__(self, channels: int, num_heads: int, dropout: float = 0.1):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(
            channels, num_heads, dropout=dropout, batch_first=True
        )
        self.cross_attention = SimilarityAttention(channels, num_heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4 * channels, channels),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K, C) and pixels (B, N, C) to new tokens and the similarity (B, K, N)."""
        update, _ = self.self_attention(tokens, tokens, tokens, need_weights=False)
        tokens = self.norms[0](tokens + self.dropout(update))
        update, similarity = self.cross_attention(tokens, pixels)
        tokens = self.norms[1](tokens + self.dropout(update))
        tokens = self.norms[2](tokens + self.dropout(self.mlp(tokens)))
        return tokens, similarity


class AttentionToMask(nn.Module):
    """The decoder of one stage: projects a feature map, to which the tokens attend.

    Linear layers are initialised as in the authors' code: truncated normal weights (0.02), zero
    biases.

    Args:
        in_channels: channels of the feature map.
        channels: channels C of the tokens.
        num_heads: number of heads of the attentions; divides C.
        num_layers: number of layers; the mask is the last one's similarity.
        dropout: probability of dropping attention weights and activations in training.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        num_heads: int,
        num_layers: int = 3,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.lateral = nn.Sequential(nn.Linear(in_channels, channels), nn.LayerNorm(channels))
        self.layers = nn.ModuleList(
            AttentionToMaskLayer(channels, num_heads, dropout) for _ in range(num_layers)
        )
        self.apply(initialize_linear)

    def project(self, feature: Tensor) -> Tensor:
        """Feature map (B, in_channels, h, w) to pixels (B, h * w, C)."""
        return self.lateral(feature.flatten(2).transpose(1, 2))

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K, C) and pixels from ``project`` to new tokens and masks (B, K, h * w)."""
        for layer in self.layers:
            tokens, similarity = layer(tokens, pixels)
        return tokens, similarity


def initialize_linear(module: nn.Module) -> None:
    """Initialise a linear layer: truncated normal weights (0.02), zero biases. Ignore others."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
