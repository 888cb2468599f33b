"""Activation checkpointing for encoders of any library.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174). With the libraries'
own implementations BatchNorm counts each batch twice; with this one it does not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...utils.errors import UserError

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_SEQUENCES = (nn.Sequential, nn.ModuleList)


def checkpoint_activations(encoder: nn.Module, name: str) -> None:
    """Recompute the activations of the encoder's blocks in the backward pass.

    Losses, gradients, random numbers and running statistics do not change, nor do the modules and
    their names in checkpoints: only the blocks' ``forward`` is replaced.

    Args:
        encoder: changed in place.
        name: its name, for the message.

    Raises:
        UserError: the encoder has no blocks, that is, modules in a row that have submodules.
    """
    blocks = list(_blocks(encoder))
    if not blocks:
        raise UserError(
            f"MODEL.ENCODER.ACTIVATION_CHECKPOINTING: encoder '{name}' has no blocks whose "
            "activations could be recomputed. Set it to False."
        )
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of sequences that are neither sequences nor single layers.

    The members of a ModuleDict without such members count as blocks, too.
    """
    for child in module.children():
        has_parts = next(child.children(), None) is not None
        if not has_parts or isinstance(child, _BATCH_NORMS):  # timm's norms have an activation
            continue
        if isinstance(module, _SEQUENCES) and not isinstance(child, _SEQUENCES):
            yield child
            continue
        within = list(_blocks(child))
        yield from within or [child] * isinstance(module, nn.ModuleDict)


def _checkpointed(block: nn.Module, forward: Callable, *args, **kwargs):
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    run = partial(_with_own_lists, forward)
    if torch.compiler.is_compiling():  # the compiler handles buffers itself
        return checkpoint(run, *args, use_reentrant=False, **kwargs)
    versions = _versions(args)
    output = checkpoint(
        run,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _with_statistics_kept(block)),
        **kwargs,
    )
    if _versions(args) != versions:
        raise UserError(
            "MODEL.ENCODER.ACTIVATION_CHECKPOINTING: a block of the encoder "
            f"({type(block).__name__}) overwrites its input, which the backward pass would need. "
            "Set it to False."
        )
    return output


def _with_own_lists(forward: Callable, *args, **kwargs):
    # HRNet's modules change their input, a list of feature maps.
    return forward(*(list(arg) if isinstance(arg, list) else arg for arg in args), **kwargs)


def _versions(args: tuple) -> list[int]:
    tensors = (x for arg in args for x in (arg if isinstance(arg, list) else [arg]))
    return [x._version for x in tensors if isinstance(x, Tensor)]


@contextmanager
def _with_statistics_kept(block: nn.Module):
    """Let BatchNorm update copies of its buffers, which are discarded."""
    kept = [
        (module, name, buffer)
        for module in block.modules()
        if isinstance(module, _BATCH_NORMS)
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
