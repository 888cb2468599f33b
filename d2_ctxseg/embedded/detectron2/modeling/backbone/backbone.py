"""The interface of a backbone."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from ...layers import ShapeSpec

__all__ = ["Backbone"]


class Backbone(nn.Module, ABC):
    """Base class of backbones.

    A subclass implements ``forward``, and either ``output_shape`` or the three attributes from
    which this class makes it: ``_out_features`` (names), ``_out_feature_channels`` and
    ``_out_feature_strides`` (dicts by name).
    """

    @abstractmethod
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (B, 3, H, W) -> feature maps (B, C, H/stride, W/stride) by name."""

    @property
    def size_divisibility(self) -> int:
        """Images are padded until this divides height and width; 0 if every size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """More rules of padding, both optional.

        ``size_divisibility`` takes the place of the property of that name; ``square_size``, if
        positive, makes every batch a square of that side.
        """
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map by name."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }
