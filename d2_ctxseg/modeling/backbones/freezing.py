"""Partly frozen encoders (MODEL.BACKBONE.FREEZE_AT).

Frozen modules have no gradient and stay in eval mode: batch statistics are fixed, dropout and
stochastic depth are off. Modules and their names in checkpoints do not change.
"""

import logging
import re
from collections.abc import Iterable, Iterator

import torch
from tabulate import tabulate
from torch import nn
from torch.func import functional_call

from detectron2.modeling import Backbone

from ...utils.errors import UserError

# The modules of a backbone whose children have rows of their own in the table.
_OUTER = ("encoder", "model")

logger = logging.getLogger(__name__)


class FreezableBackbone(Backbone):
    """A backbone whose ``encoder`` may be partly frozen, from the first layer on."""

    #: MODEL.BACKBONE.FREEZE_AT; 0: nothing is frozen.
    freeze_at: int = 0

    def train(self, mode: bool = True):
        """As in nn.Module, but frozen modules stay in eval mode."""
        super().train(mode)
        if self.freeze_at:
            for module in self.encoder.modules():
                if _is_frozen(module):
                    module.eval()
        return self

    def freeze(self, names: Iterable[str], freeze_at: int) -> None:
        """Freeze parameters of the encoder, and log how many parameters are trained.

        Args:
            names: names in ``encoder.named_parameters()``.
            freeze_at: MODEL.BACKBONE.FREEZE_AT, a positive number.
        """
        self.freeze_at = freeze_at
        for name in names:
            self.encoder.get_parameter(name).requires_grad_(False)
        self.train(self.training)
        table = describe_trained_parameters(self)
        logger.info(
            "MODEL.BACKBONE.FREEZE_AT is %d. Parameters of the backbone:\n%s", freeze_at, table
        )


def check_freeze_at(freeze_at: int, maximum: int, frozen_at_maximum: str) -> None:
    """Refuse numbers out of range.

    Raises:
        UserError: ``freeze_at`` is not between 0 and ``maximum``.
    """
    if not 0 <= freeze_at <= maximum:
        raise UserError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, expected a number from 0 (nothing is "
            f"frozen) to {maximum} ({frozen_at_maximum})."
        )


def parameters_of_stages(encoder: nn.Module, last: int, name: str, in_channels: int) -> set[str]:
    """Names of the parameters that the feature maps from "res1" to "res{last}" are computed from.

    Args:
        encoder: maps an image (B, C, H, W) to a list of feature maps; the first one is the image.
        last: number of the last of these feature maps, from 1.
        name: the encoder's name, for messages.
        in_channels: number of channels C of the image.

    Raises:
        UserError: the encoder has no feature map "res1"; a feature map is not computed from the
            previous one alone, so that freezing it would freeze parts of deeper ones; or the
            encoder cannot be traced, because it takes images of one size only.
    """
    deepest = len(encoder.out_channels) - 1
    if last == deepest:
        return {key for key, _ in encoder.named_parameters()}
    try:
        stages = _trace_stages(encoder, min(last + 1, deepest), in_channels)
    except Exception as error:  # of many types, where an encoder needs another image size
        reason = f"its stages could not be separated ({error})"
        raise _unsupported(last, name, reason, (0, deepest)) from error
    if not stages[0] and last == 1:
        reason = "it has no feature map of stride 2, and its stem belongs to the next stage"
        raise _unsupported(last, name, reason, range(2, deepest + 1))
    for number, (stage, following) in enumerate(zip(stages, stages[1:]), start=1):
        if not stage <= following:
            reason = f"its deeper stages are not computed from res{number} alone"
            raise _unsupported(last, name, reason, (*range(number), deepest))
    return set().union(*stages[:last])


def embedding_and_blocks(transformer: nn.Module, num_blocks: int) -> set[str]:
    """Names of the parameters of a vision transformer's first blocks and of all before them.

    Args:
        transformer: a vision transformer of timm without norm and classifier after its ``blocks``.
        num_blocks: number of blocks.
    """
    numbers = {key: re.match(r"blocks\.(\d+)\.", key) for key, _ in transformer.named_parameters()}
    return {key for key, match in numbers.items() if not match or int(match[1]) < num_blocks}


def describe_trained_parameters(module: nn.Module) -> str:
    """A table of the module's children: their numbers of parameters and of trained ones."""
    rows = [(name, *_counts(parameters)) for name, parameters in _parts(module)]
    rows.append(("all", *_counts(module.parameters())))
    headers = ("module", "parameters", "trained")
    return tabulate(rows, headers=headers, tablefmt="pipe", intfmt=",")


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _trace_stages(encoder: nn.Module, last: int, in_channels: int) -> list[set[str]]:
    """For "res1" to "res{last}" the names of the parameters that each is computed from.

    On the meta device, where nothing is computed.
    """
    parameters = {
        key: torch.empty_like(p, device="meta").requires_grad_()
        for key, p in encoder.named_parameters()
    }
    buffers = {key: torch.empty_like(b, device="meta") for key, b in encoder.named_buffers()}
    image = torch.empty(1, in_channels, 256, 256, device="meta")
    training = encoder.training
    encoder.eval()
    try:
        with torch.enable_grad():
            features = functional_call(encoder, parameters | buffers, (image,))
    finally:
        encoder.train(training)
    stages = []
    for feature in features[1 : last + 1]:
        used = set()
        # Encoders whose first feature map has stride 4 return an empty one for "res1".
        if feature.requires_grad:
            gradients = torch.autograd.grad(
                feature.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
            )
            used = {key for key, grad in zip(parameters, gradients) if grad is not None}
        stages.append(used)
    return stages


def _unsupported(last: int, name: str, reason: str, possible: Iterable[int]) -> UserError:
    numbers = ", ".join(map(str, dict.fromkeys((0, *possible))))
    return UserError(
        f"MODEL.BACKBONE.FREEZE_AT {last}: encoder '{name}' cannot be frozen that far: {reason}. "
        f"Choose one of {numbers}."
    )


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, list[nn.Parameter]]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, [parameter]
    for name, child in module.named_children():
        if name in _OUTER:
            yield from _parts(child, f"{prefix}{name}.")
        elif parameters := list(child.parameters()):
            yield prefix + name, parameters


def _counts(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    parameters = list(parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return sum(p.numel() for p in parameters), trained
