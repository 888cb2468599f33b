"""Learning-rate schedules, and what optimizers need beyond torch's."""

from .build import build_lr_scheduler
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler", "build_lr_scheduler"]
