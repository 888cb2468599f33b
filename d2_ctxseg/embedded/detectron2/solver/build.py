"""The learning-rate schedule of a config."""

import logging

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    StepWithFixedGammaParamScheduler,
)

from ..config import CfgNode
from .gradient_clipping import maybe_add_gradient_clipping
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler
from .param_groups import reduce_param_groups

__all__ = ["build_lr_scheduler", "maybe_add_gradient_clipping", "reduce_param_groups"]


class _FixedGammaSchedule(StepWithFixedGammaParamScheduler):
    """Falls by the same factor at equal distances; defined at progress 1, too.

    fvcore's raises IndexError there, and there is where the step after the last iteration leads.
    """

    def __call__(self, where: float) -> float:
        return super().__call__(min(where, 1.0 - 2 * self.WHERE_EPSILON))


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names, with its warm-up.

    Raises:
        ValueError: the name is unknown.
    """
    solver = cfg.SOLVER
    warmup_length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    schedule = WarmupParamScheduler(
        _schedule_after_warmup(solver),
        solver.WARMUP_FACTOR,
        warmup_length,
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _schedule_after_warmup(solver: CfgNode):
    """A schedule of fvcore: progress in [0, 1] to a factor."""
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(steps) < len(solver.STEPS):
            logging.getLogger(__name__).warning(
                f"SOLVER.STEPS {solver.STEPS} has values above SOLVER.MAX_ITER {solver.MAX_ITER}: "
                "they are ignored."
            )
        return MultiStepParamScheduler(
            values=[solver.GAMMA**count for count in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end <= 1.0, (
            f"SOLVER.BASE_LR_END {solver.BASE_LR_END} must be in [0, {solver.BASE_LR}] (BASE_LR)."
        )
        return CosineParamScheduler(1, end)
    if solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        return _FixedGammaSchedule(
            base_value=1.0,
            num_decays=solver.NUM_DECAYS,
            gamma=solver.GAMMA,
            num_updates=solver.MAX_ITER,
        )
    raise ValueError(
        f"Unknown LR scheduler: {solver.LR_SCHEDULER_NAME}. SOLVER.LR_SCHEDULER_NAME must be "
        "WarmupMultiStepLR, WarmupCosineLR or WarmupStepWithFixedGammaLR."
    )
