"""timm's "same" padding as numbers, for tracing a model with free image sizes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import timm.layers  # noqa: F401  (loads the modules below)
import torch.nn.functional as F
from torch import Tensor

# They pad with a function of this name, which each has imported.
_USERS = [f"timm.layers.{name}" for name in ("conv2d_same", "pool2d_same", "std_conv")]
_NAME = "pad_same"


def pad_multiple(
    image: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    value: float = 0,
) -> Tensor:
    """What timm's ``pad_same`` does with sides that are multiples of the stride.

    A side S is padded until a window moved by ``stride`` gives ceil(S / stride) results: by
    (ceil(S / stride) - 1) * stride + (kernel - 1) * dilation + 1 - S, or by nothing if that is less
    than 0. For multiples of the stride, S drops out.

    Args:
        image: (..., H, W); H and W are multiples of the strides.
        kernel_size, stride, dilation: for H and W.
        value: of the padding.
    """
    height, width = (
        max((kernel - 1) * step + 1 - move, 0)
        for kernel, move, step in zip(kernel_size, stride, dilation, strict=True)
    )
    sides = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(image, sides, value=value)


@contextmanager
def same_padding_of_multiples() -> Iterator[None]:
    """Meanwhile, timm's layers with "same" padding take their input for multiples of their stride.

    Images that were padded to the backbone's divisor are that at every layer. torch.export then
    traces the padding as numbers; as expressions of the free sizes, which become longer from layer
    to layer, it needed more than ten minutes for the 49 convolutions of an EfficientNet.
    """
    modules = [sys.modules[name] for name in _USERS]
    before = [getattr(module, _NAME) for module in modules]
    for module in modules:
        setattr(module, _NAME, pad_multiple)
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            setattr(module, _NAME, function)
