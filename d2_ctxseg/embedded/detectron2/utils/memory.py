"""What to do when the memory of the GPU runs out."""

import functools
import logging
from collections.abc import Callable

import torch

from .._coverage import module_getattr

__all__ = ["retry_if_cuda_oom"]

_OUT_OF_MEMORY = object()


def retry_if_cuda_oom(func: Callable) -> Callable:
    """Let a function try again when the memory of the GPU runs out.

    First again after emptying torch's cache, then on the CPU: tensor arguments are copied there
    (not those inside lists or dicts), and so results may be on the CPU.

    Args:
        func: has no side effects, because it may run three times.

    Returns:
        A function with the same arguments.
    """

    @functools.wraps(func)
    def wrapped(*args, **kwargs):
        result = _try(func, args, kwargs)
        if result is _OUT_OF_MEMORY:
            torch.cuda.empty_cache()
            result = _try(func, args, kwargs)
        if result is not _OUT_OF_MEMORY:
            return result
        logging.getLogger(__name__).info(
            f"The memory of the GPU ran out: copying inputs of {func} to the CPU (slow)."
        )
        args = [_to_cpu(value) for value in args]
        kwargs = {name: _to_cpu(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    return wrapped


def _try(func: Callable, args, kwargs):
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one; cuDNN raises plain ones
        if "CUDA out of memory. " not in str(error):
            raise
    return _OUT_OF_MEMORY


def _to_cpu(value):
    is_on_gpu = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if is_on_gpu and hasattr(value, "to") else value


__getattr__ = module_getattr(__name__)
