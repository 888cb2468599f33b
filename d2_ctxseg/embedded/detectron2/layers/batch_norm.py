"""Normalization layers, and their choice by name."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .._coverage import module_getattr


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization with constant statistics and a constant affine map.

    All four vectors are buffers, so neither the optimizer nor a forward pass changes them. A new
    layer is the identity.
    """

    _version = 3  # what upstream's checkpoints of this layer say

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Saved only if it came from a BatchNorm2d; see convert_frozen_batchnorm.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, num_features, H, W) -> the same shape."""
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # F.batch_norm would keep what the gradients of weight and bias need: memory for nothing.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(-1, 1, 1).to(x.dtype) + shift.view(-1, 1, 1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Freeze all (Sync)BatchNorm layers in ``module``, keeping their values.

        Returns:
            A new layer if ``module`` itself is one of them; otherwise ``module``, changed in place.
        """
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            return cls._frozen_copy(module)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module

    @classmethod
    def _frozen_copy(cls, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> "FrozenBatchNorm2d":
        frozen = cls(norm.num_features, norm.eps)
        if norm.affine:
            frozen.weight = norm.weight.detach().clone()
            frozen.bias = norm.bias.detach().clone()
        frozen.running_mean = norm.running_mean
        frozen.running_var = norm.running_var
        frozen.num_batches_tracked = norm.num_batches_tracked
        return frozen


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
    "FrozenBN": FrozenBatchNorm2d,
    "GN": _group_norm,
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a normalization layer for ``out_channels`` channels.

    Args:
        norm: "BN", "SyncBN", "nnSyncBN", "FrozenBN", "GN" (32 groups) or "LN"; a callable that
            takes the number of channels and returns the layer; "" or None for no layer.

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


__getattr__ = module_getattr(__name__)
