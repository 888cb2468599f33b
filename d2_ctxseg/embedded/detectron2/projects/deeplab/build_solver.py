"""The learning-rate schedules of Detectron2, and DeepLab's poly schedule."""

from torch.optim import Optimizer

from ...config import CfgNode
from ...solver import LRScheduler
from ...solver import build_lr_scheduler as build_common_lr_scheduler
from .lr_scheduler import WarmupPolyLR


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names; "WarmupPolyLR" is one more."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_common_lr_scheduler(cfg, optimizer)
    return WarmupPolyLR(
        optimizer,
        solver.MAX_ITER,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_method=solver.WARMUP_METHOD,
        power=solver.POLY_LR_POWER,
        constant_ending=solver.POLY_LR_CONSTANT_ENDING,
    )
