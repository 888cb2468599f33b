"""The valid part of padded images and of their feature maps.

Padding lies at the bottom and on the right of an image, as in Detectron2's ImageList.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detectron2.structures import ImageList


def sizes_if_padded(images: ImageList) -> list[tuple[int, int]] | None:
    """Height and width of each image of a batch without its padding; None if none is padded."""
    padded = tuple(images.tensor.shape[-2:])
    sizes = [(int(height), int(width)) for height, width in images.image_sizes]
    return None if all(size == padded for size in sizes) else sizes


def feature_sizes(
    image_sizes: Sequence[tuple[int, int]],
    padded_size: Sequence[int],
    map_size: Sequence[int],
) -> Tensor:
    """Height and width of the part of feature maps that covers the image.

    It is the size of the feature map of the image without padding.

    Args:
        image_sizes: height and width of each image.
        padded_size: height and width of the padded images.
        map_size: height and width of the feature maps of the padded images.

    Returns:
        (B, 2) int64, on the CPU.
    """
    return torch.tensor(
        [
            # size * side / padded, rounded up.
            [
                (size * side + padded - 1) // padded
                for size, padded, side in zip(image, padded_size, map_size, strict=True)
            ]
            for image in image_sizes
        ]
    )


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Images (B, C, H, W), padded with zeros to multiples of ``divisor``.

    Nothing is padded while a model is exported: exported files pad images before the model.
    """
    if torch.compiler.is_exporting():
        return images
    bottom, right = (-int(side) % divisor for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
