"""Optimizers and their parameter groups."""

import logging
from collections.abc import Callable

import torch
from fvcore.common.config import CfgNode
from tabulate import tabulate
from timm.layers import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from timm.models import group_parameters
from torch import nn

from detectron2.layers.batch_norm import LayerNorm
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups

from ..utils.errors import UserError, suggest

logger = logging.getLogger(__name__)

OPTIMIZERS = ("SGD", "ADAMW")
CLIP_TYPES = ("value", "norm", "full_model")
_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms, also over workers
    nn.GroupNorm,
    nn.LayerNorm,
    LayerNorm,  # Detectron2's, over channels
    nn.LocalResponseNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
    *(RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d),  # timm's
)
# Tables of positions and tokens, by the names that timm gives them.
_EMBEDDINGS = {
    *("pos_embed", "absolute_pos_embed", "relative_position_bias_table", "rel_pos_h", "rel_pos_w"),
    *("cls_token", "dist_token", "reg_token", "mask_token"),
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over the trained parameters, with gradient clipping.

    SOLVER has the learning rates and weight decays, see :func:`parameter_groups`. Besides
    Detectron2's types, SOLVER.CLIP_GRADIENTS.CLIP_TYPE may be "full_model": one norm over all
    gradients.

    Raises:
        UserError: an unknown optimizer or kind of clipping. ``validate_config`` checks the values.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise UserError(
            f"SOLVER.OPTIMIZER: '{solver.OPTIMIZER}' is not one of {', '.join(OPTIMIZERS)}."
            f"{suggest(solver.OPTIMIZER.upper(), OPTIMIZERS)}"
        )
    groups = parameter_groups(
        model,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        decay_head_norms=solver.DECAY_HEAD_NORMS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        head_multiplier=solver.HEAD_MULTIPLIER,
        layer_decay=solver.LAYER_DECAY,
    )
    logger.info("Parameter groups:\n%s", describe_groups(groups))
    if solver.OPTIMIZER == "ADAMW":
        return _with_clipping(cfg, torch.optim.AdamW)(
            groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), weight_decay=solver.WEIGHT_DECAY
        )
    return _with_clipping(cfg, torch.optim.SGD)(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    weight_decay_embed: float | None = None,
    decay_head_norms: bool = False,
    bias_lr_factor: float | None = 1.0,
    backbone_multiplier: float = 1.0,
    head_multiplier: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict]:
    """The parameters that require a gradient, in as few groups as there are different options.

    Args:
        model: parameters below its ``backbone`` are the backbone's, all others the head's.
        lr: learning rate.
        weight_decay: default weight decay.
        weight_decay_norm: weight decay of weights and biases of normalisations; None: the default.
        weight_decay_bias: weight decay of other biases; None: the default.
        weight_decay_embed: weight decay of position tables and tokens; None: the default.
        decay_head_norms: whether ``weight_decay_norm`` applies to the backbone alone, so that the
            head's normalisations have ``weight_decay``.
        bias_lr_factor: factor on the rate of biases.
        backbone_multiplier: factor on the rate of the backbone.
        head_multiplier: factor on the rate of everything else.
        layer_decay: factor on the rate of the deepest block of a vision transformer; its square
            for the block before it, and so on down to the patch embedding (ELECTRA; BEiT, ICLR
            2022, appendix).

    Returns:
        Groups with "params", "lr" and "weight_decay".
    """
    factor_of = _rate_factors(model, backbone_multiplier, head_multiplier, layer_decay)
    embeddings = _names_of_embeddings(model)
    decay_of = {"norm": weight_decay_norm, "embed": weight_decay_embed}
    groups, seen = [], set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{module_name}.{name}" if module_name else name
            is_bias = name == "bias" or name.endswith("_bias")
            kind = "embed" if full_name in embeddings else _kind(module, name)
            if kind == "norm" and decay_head_norms and not full_name.startswith("backbone."):
                kind = None
            decay = decay_of.get(kind)
            rate = lr * factor_of(full_name)
            if is_bias and bias_lr_factor is not None:
                rate *= bias_lr_factor
            # As in Detectron2, a decay for biases applies to those of norms as well.
            if is_bias and weight_decay_bias is not None:
                decay = weight_decay_bias
            options = {"lr": rate, "weight_decay": weight_decay if decay is None else decay}
            groups.append({"params": [parameter], **options})
    return reduce_param_groups(groups)


def describe_groups(groups: list[dict]) -> str:
    """A table of learning rate, weight decay and number of parameters of each group."""
    rows = [
        (
            group["lr"],
            group["weight_decay"],
            len(group["params"]),
            sum(parameter.numel() for parameter in group["params"]),
        )
        for group in groups
    ]
    headers = ("learning rate", "weight decay", "tensors", "parameters")
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt="g")


def _kind(module: nn.Module, name: str) -> str | None:
    if isinstance(module, _NORMS):
        return "norm"
    if isinstance(module, nn.Embedding) or name in _EMBEDDINGS:
        return "embed"
    return None


def _names_of_embeddings(model: nn.Module) -> set[str]:
    """The parameters that timm's models exclude from weight decay."""
    names = set()
    for prefix, module in model.named_modules():
        if callable(getattr(module, "no_weight_decay", None)):
            names.update(f"{prefix}.{name}".lstrip(".") for name in module.no_weight_decay())
    return names


def _rate_factors(
    model: nn.Module, backbone_multiplier: float, head_multiplier: float, layer_decay: float
) -> Callable[[str], float]:
    """A function from a parameter's name to the factor on its rate."""
    layers = {} if layer_decay == 1.0 else _layers_of(model)
    depth = max(layers.values(), default=0) + 1

    def factor(name: str) -> float:
        if not name.startswith("backbone."):
            return head_multiplier
        return backbone_multiplier * layer_decay ** (depth - layers.get(name, depth))

    return factor


def _layers_of(model: nn.Module) -> dict[str, int]:
    """The layer number of each parameter of a transformer's encoder; 0: the embedding."""
    encoder = getattr(getattr(model, "backbone", None), "encoder", None)
    if not hasattr(encoder, "group_matcher"):
        raise UserError(
            "SOLVER.LAYER_DECAY needs an encoder whose layers are known: MODEL.BACKBONE.NAME "
            "'VisionTransformerBackbone'. Set it to 1.0 for other backbones."
        )
    layers = group_parameters(encoder, encoder.group_matcher(coarse=False), reverse=True)
    return {f"backbone.encoder.{name}": layer for name, layer in layers.items()}


def _with_clipping(cfg: CfgNode, optimizer_class: type) -> type:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        if clip.ENABLED and clip.CLIP_TYPE not in ("value", "norm"):
            known = ("value", "norm", "full_model")
            raise UserError(
                f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: '{clip.CLIP_TYPE}' is not one of "
                f"{', '.join(known)}.{suggest(clip.CLIP_TYPE, known)}"
            )
        return maybe_add_gradient_clipping(cfg, optimizer_class)

    class FullModelClipping(optimizer_class):
        """Scales all gradients by one factor where their total norm exceeds CLIP_VALUE."""

        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)
            return super().step(closure)

    FullModelClipping.__name__ = f"{optimizer_class.__name__}WithFullModelClipping"
    return FullModelClipping
