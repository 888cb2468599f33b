"""What the processes of a run do together."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from detectron2.utils import comm

from ..utils.errors import UserError

T = TypeVar("T")


def on_main_process(function: Callable[[], T]) -> T:
    """What ``function`` returns on the main process, on all of them. All must call this.

    Raises:
        UserError: the main process raised one; it is raised on all, so that none waits for ever.
    """
    result = error = None
    if comm.is_main_process():
        try:
            result = function()
        except UserError as caught:
            error = caught
    result, message = comm.all_gather((result, error and str(error)))[0]
    if message is not None:
        raise error or UserError(message)
    return result


def broadcast_buffers(module: nn.Module) -> None:
    """Give all processes the main one's buffers, such as the batch statistics."""
    if comm.get_world_size() > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
