"""Builds the model that a config names."""

import torch
from torch import nn

from ...config import CfgNode
from ...utils.registry import Registry
from .._lookup import find_registered

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """Callables ``cfg -> nn.Module`` by name: whole models."""


def build_model(cfg: CfgNode) -> nn.Module:
    """Build ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, without loading weights.

    Raises:
        KeyError: no meta-architecture of that name is registered.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    model = find_registered(META_ARCH_REGISTRY, name, "MODEL.META_ARCHITECTURE")(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
