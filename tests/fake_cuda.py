"""A GPU that computes no values: shapes and devices only, on a machine without one."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


class FakeCuda(FakeTensorMode):
    """Within it tensors on "cuda" can be made. A value that the host would wait for is an error.

    PyTorch's autograd engine wants a real GPU: forward passes only.
    """


def to_fake_cuda(module: nn.Module) -> nn.Module:
    """The module with parameters and buffers on the fake GPU; call it within ``FakeCuda``."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                child._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module
