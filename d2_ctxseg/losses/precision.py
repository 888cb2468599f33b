"""Half precision where it is enough, single precision where sums need it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.amp import is_autocast_available


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which operations keep the precision of what they are given."""
    # The meta device has no autocast, and nothing to turn off. Nor has an exported graph, and some
    # files of torch.export with such a context in them cannot be read again.
    if torch.compiler.is_exporting() or not is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
