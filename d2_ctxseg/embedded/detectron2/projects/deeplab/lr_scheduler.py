"""The poly schedule of DeepLab."""

import math

from torch.optim import Optimizer

from ..._coverage import module_getattr
from ...solver.lr_scheduler import _WarmupLR


class WarmupPolyLR(_WarmupLR):
    """The rate times ``(1 - iteration / max_iters) ** power`` (DeepLab, arXiv:1606.00915).

    Args:
        optimizer: the optimizer.
        max_iters: the iteration at which the rate is 0.
        warmup_factor: the first rate is this times the initial one.
        warmup_iters: the length of the warm-up, which multiplies the poly.
        warmup_method: "linear" or "constant".
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
        self.power = power
        self.constant_ending = constant_ending
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, warmed_up: bool) -> float:
        poly = math.pow(1.0 - self.last_epoch / self.max_iters, self.power)
        return max(poly, self.constant_ending) if warmed_up else poly


__getattr__ = module_getattr(__name__)
