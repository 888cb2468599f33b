"""Options of execution: memory format, compilation, synchronised batch statistics."""

import logging

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from detectron2.utils import comm

logger = logging.getLogger(__name__)


def use_channels_last(model: nn.Module) -> None:
    """Use the channels-last memory format for convolutions and for the backbone's images.

    Args:
        model: a model whose ``backbone`` takes images (B, C, H, W).
    """
    model.to(memory_format=torch.channels_last)
    model.backbone.register_forward_pre_hook(_with_channels_last)


def _with_channels_last(module: nn.Module, arguments: tuple) -> tuple:
    images, *others = arguments
    return images.contiguous(memory_format=torch.channels_last), *others


def compile_model(model: nn.Module) -> None:
    """Compile the backbone with torch.compile; the names of parameters do not change.

    The backbone takes most of the time; the rest depends on the number and sizes of the images.
    """
    model.backbone.compile()


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Synchronise batch statistics over all workers; no effect on a CPU or with one worker."""
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).device.type == "cpu":
        logger.warning("MODEL.SYNC_BN has no effect: batch norm is synchronised on GPUs only.")
        return model
    return convert_sync_batchnorm(model)
