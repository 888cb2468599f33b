"""The poly schedule of DeepLab."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupPolyLR(LRScheduler):
    """The rate times ``(1 - iteration / max_iters) ** power`` (DeepLab, arXiv:1606.00915).

    Here ``last_epoch``, as torch calls it, is the iteration.

    Args:
        optimizer: the optimizer.
        max_iters: the iteration at which the rate is 0.
        warmup_factor: the first rate is this times the initial one.
        warmup_iters: the length of the warm-up, which multiplies the poly.
        warmup_method: "linear" or "constant"; others are a ValueError.
        last_epoch: the last iteration done; -1 at the start.
        power: the exponent.
        constant_ending: after the warm-up the poly does not fall below this factor.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
        power: float = 0.9,
        constant_ending: float = 0.0,
    ):
        self.max_iters = max_iters
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        self.power = power
        self.constant_ending = constant_ending
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates of all parameter groups at the current iteration."""
        warmup = self._warmup()
        poly = math.pow(1.0 - self.last_epoch / self.max_iters, self.power)
        decay = max(poly, self.constant_ending) if warmup == 1.0 else poly
        return [base_lr * warmup * decay for base_lr in self.base_lrs]

    def _warmup(self) -> float:
        """From ``warmup_factor`` at iteration 0 to 1 at the end of the warm-up."""
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        if self.warmup_method == "linear":
            progress = self.last_epoch / self.warmup_iters
            return self.warmup_factor * (1 - progress) + progress
        raise ValueError(
            f"Unknown warmup method: {self.warmup_method}. It must be 'linear' or 'constant'."
        )
