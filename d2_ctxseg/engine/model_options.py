"""How a model runs, apart from what it computes: memory format, compilation, batch statistics."""

import logging

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from detectron2.utils import comm

logger = logging.getLogger(__name__)


def use_channels_last(model: nn.Module) -> None:
    """Keep convolutions, and the images that the backbone is given, with the channels last.

    Args:
        model: with a ``backbone`` that takes images (B, C, H, W).
    """
    model.to(memory_format=torch.channels_last)
    model.backbone.register_forward_pre_hook(_with_channels_last)


def _with_channels_last(module: nn.Module, arguments: tuple) -> tuple:
    images, *others = arguments
    return images.contiguous(memory_format=torch.channels_last), *others


def compile_model(model: nn.Module) -> None:
    """Compile the backbone (torch.compile); the names of parameters stay as they are.

    It takes most of the time. What follows depends on the batch's number and sizes of images.
    """
    model.backbone.compile()


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Take batch statistics over all workers; on the CPU, and with one worker, over its own."""
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).device.type == "cpu":
        logger.warning("MODEL.SYNC_BN has no effect: batch norm is synchronised on GPUs only.")
        return model
    return convert_sync_batchnorm(model)
