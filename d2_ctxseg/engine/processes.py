"""Operations over all processes of a run."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from detectron2.utils import comm

from ..utils.errors import UserError

T = TypeVar("T")


def on_main_process(function: Callable[[], T]) -> T:
    """Call ``function`` on the main process and return its result on all; all must call this.

    Raises:
        UserError: ``function`` raised one; it is raised on all processes, so that none hangs.
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
    """Copy the buffers of the main process, such as batch statistics, to all processes."""
    if comm.get_world_size() > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
