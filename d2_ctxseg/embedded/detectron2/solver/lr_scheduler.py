"""Learning-rate schedules that run by iteration, each with a warm-up.

torch's schedulers speak of epochs; here ``last_epoch`` is the iteration.
"""

import logging
import math
from bisect import bisect_right

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._coverage import module_getattr

logger = logging.getLogger(__name__)


class WarmupParamScheduler(CompositeParamScheduler):
    """Puts a warm-up in front of a schedule of fvcore.

    Args:
        scheduler: the schedule; maps progress in [0, 1] to a factor.
        warmup_factor: the warm-up starts at this times the schedule's first value.
        warmup_length: the warm-up's part of the whole, in [0, 1].
        warmup_method: "linear", or "constant" (stay at the start, then jump).
        rescale_interval: True: the whole schedule runs after the warm-up. False: the warm-up
            covers the schedule's beginning.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0 if rescale_interval else warmup_length)
        if warmup_method == "linear":
            warmup = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise _unknown_warmup(warmup_method)
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Every parameter group's initial rate, times the same factor of a schedule of fvcore.

    Args:
        optimizer: the optimizer.
        multiplier: maps progress in [0, 1] to the factor.
        max_iter: the iteration at which progress is 1.
        last_iter: the last iteration done; -1 at the start.

    Raises:
        ValueError: ``multiplier`` is not a ``ParamScheduler``.
    """

    def __init__(
        self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a ParamScheduler of fvcore, not {multiplier!r}.")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict:
        """The initial rates and the iteration. The schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        """The rates of all parameter groups at the current iteration."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]


class _WarmupLR(LRScheduler):
    """A decay that a warm-up multiplies; subclasses say the decay.

    Args:
        optimizer: the optimizer.
        warmup_factor: the first rate is this times the initial one.
        warmup_iters: the length of the warm-up.
        warmup_method: "linear" or "constant".
        last_epoch: the last iteration done; -1 at the start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: str,
        last_epoch: int,
    ):
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates of all parameter groups at the current iteration."""
        warmup = _get_warmup_factor_at_iter(
            self.warmup_method, self.last_epoch, self.warmup_iters, self.warmup_factor
        )
        decay = self._decay(warmed_up=warmup == 1.0)
        return [base_lr * warmup * decay for base_lr in self.base_lrs]


class WarmupMultiStepLR(_WarmupLR):
    """The rate times ``gamma`` at each milestone. ``LRMultiplier`` has taken its place.

    Args:
        milestones: iterations, rising.
        gamma: the factor.
        Others: as of the base class.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        logger.warning("WarmupMultiStepLR is deprecated: use LRMultiplier.")
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must be rising integers, not {milestones}.")
        self.milestones = milestones
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, warmed_up: bool) -> float:
        return self.gamma ** bisect_right(self.milestones, self.last_epoch)


class WarmupCosineLR(_WarmupLR):
    """Half a cosine from the initial rate to 0. ``LRMultiplier`` has taken its place.

    Args:
        max_iters: the iteration at which the rate is 0.
        Others: as of the base class.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        logger.warning("WarmupCosineLR is deprecated: use LRMultiplier.")
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, warmed_up: bool) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * self.last_epoch / self.max_iters))


def _get_warmup_factor_at_iter(
    method: str, iter: int, warmup_iters: int, warmup_factor: float
) -> float:
    """The factor of the warm-up: from ``warmup_factor`` at iteration 0 to 1 at its end.

    Raises:
        ValueError: ``method`` is neither "linear" nor "constant".
    """
    if iter >= warmup_iters:
        return 1.0
    if method == "constant":
        return warmup_factor
    if method == "linear":
        progress = iter / warmup_iters
        return warmup_factor * (1 - progress) + progress
    raise _unknown_warmup(method)


def _unknown_warmup(method: str) -> ValueError:
    return ValueError(f"Unknown warmup method: {method}. It must be 'linear' or 'constant'.")


__getattr__ = module_getattr(__name__)
