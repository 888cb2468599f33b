"""What one module tells another about the shape of a feature map."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Shape of a feature map as far as it is known before the model runs; None means unknown.

    ``stride`` is the ratio of the input image's side to the feature map's side.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
