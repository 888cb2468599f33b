"""Learning-rate schedules that run by iteration, each with a warm-up.

torch's schedulers speak of epochs; here ``last_epoch`` is the iteration.
"""

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


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
            raise ValueError(
                f"Unknown warmup method: {warmup_method}. It must be 'linear' or 'constant'."
            )
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
