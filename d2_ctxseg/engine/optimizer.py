"""Optimizers and their parameter groups."""

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

from ..errors import UserError, suggest

_OPTIMIZERS = ("SGD", "ADAMW")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over Detectron2's parameter groups, with gradient clipping as in SOLVER.

    The backbone's learning rate is multiplied with SOLVER.BACKBONE_MULTIPLIER; norms decay with
    SOLVER.WEIGHT_DECAY_NORM, biases with SOLVER.WEIGHT_DECAY_BIAS.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in _OPTIMIZERS:
        raise UserError(
            f"SOLVER.OPTIMIZER: '{solver.OPTIMIZER}' is not one of {', '.join(_OPTIMIZERS)}."
            f"{suggest(solver.OPTIMIZER.upper(), _OPTIMIZERS)}"
        )
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        lr_factor_func=lambda name: (
            solver.BACKBONE_MULTIPLIER if name.startswith("backbone.") else 1.0
        ),
    )
    if solver.OPTIMIZER == "ADAMW":
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(
            groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY
        )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )
