"""Tools for mixed precision: single precision where half is not enough."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.amp import is_autocast_available


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which operations keep the precision of their inputs."""
    # The meta device has no autocast. Some files of torch.export with such a context cannot be read
    # again.
    if torch.compiler.is_exporting() or not is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
