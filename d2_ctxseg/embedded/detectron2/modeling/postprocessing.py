"""Brings predictions to the size that was asked for."""

import torch
from torch.nn import functional as F


def sem_seg_postprocess(
    result: torch.Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> torch.Tensor:
    """Cut off the padding and resize to the size of the original image.

    Args:
        result: logits (K, H, W) of a padded image.
        img_size: (height, width) of that image without the padding, at most (H, W).

    Returns:
        Logits (K, output_height, output_width), interpolated bilinearly.
    """
    height, width = img_size
    logits = result[None, :, :height, :width]
    size = (output_height, output_width)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]
