"""Normalization layers, and their choice by name."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Layer normalization over the channels of each pixel, for tensors (B, C, H, W)."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


_NORMS = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "GN": _group_norm,
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a normalization layer for ``out_channels`` channels.

    Args:
        norm: "BN", "SyncBN", "nnSyncBN", "GN" (32 groups) or "LN"; a callable that takes the
            number of channels and returns the layer; "" or None for no layer.

    Raises:
        ValueError: ``norm`` is an unknown name.
    """
    if norm is None or norm == "":
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    if norm not in _NORMS:
        raise ValueError(
            f"Unknown normalization {norm!r}: expected one of {sorted(_NORMS)}, '' for none, "
            "or a callable that takes the number of channels."
        )
    return _NORMS[norm](out_channels)
