"""Learning-rate schedules: Detectron2's, DeepLab's, and poly with a minimum."""

from fvcore.common.config import CfgNode
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detectron2.projects import deeplab

from ..utils.errors import UserError

SCHEDULES = (
    "WarmupMultiStepLR",
    "WarmupCosineLR",
    "WarmupStepWithFixedGammaLR",
    "WarmupPolyLR",
)
WARMUP_METHODS = ("linear", "constant")


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule of SOLVER.LR_SCHEDULER_NAME; "WarmupPolyLR" ends at SOLVER.MIN_LR.

    Raises:
        UserError: SOLVER.MIN_LR is negative, above BASE_LR, or set for another schedule; or the
            schedule or warm-up method is unknown.
    """
    solver = cfg.SOLVER
    if not 0 <= solver.MIN_LR <= solver.BASE_LR:
        raise UserError(
            f"SOLVER.MIN_LR is {solver.MIN_LR}, expected a number from 0 to SOLVER.BASE_LR, which "
            f"is {solver.BASE_LR}."
        )
    if solver.MIN_LR == 0:
        try:
            return deeplab.build_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UserError(
                f"SOLVER.LR_SCHEDULER_NAME '{solver.LR_SCHEDULER_NAME}', SOLVER.WARMUP_METHOD "
                f"'{solver.WARMUP_METHOD}': {error} The schedule may also be 'WarmupPolyLR'."
            ) from error
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR" or solver.POLY_LR_CONSTANT_ENDING:
        raise UserError(
            "SOLVER.MIN_LR needs LR_SCHEDULER_NAME 'WarmupPolyLR' and POLY_LR_CONSTANT_ENDING 0, "
            f"but the schedule is '{solver.LR_SCHEDULER_NAME}' and POLY_LR_CONSTANT_ENDING is "
            f"{solver.POLY_LR_CONSTANT_ENDING}. Set SOLVER.MIN_LR to 0."
        )
    return WarmupPolyMinimumLR(
        optimizer,
        solver.MAX_ITER,
        minimum=solver.MIN_LR,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_method=solver.WARMUP_METHOD,
        power=solver.POLY_LR_POWER,
    )


class WarmupPolyMinimumLR(LRScheduler):
    """``(base - minimum) * (1 - iteration / max_iters) ** power + minimum``, times the warm-up.

    This is mmsegmentation's poly schedule (``min_lr``, before its version 1.0). All parameter
    groups have the same minimum; a group whose base learning rate is lower keeps that rate.

    Args:
        optimizer: the optimizer.
        max_iters: the iteration at which the minimum is reached.
        minimum: the final learning rate.
        warmup_factor: the first learning rate is this times the schedule's.
        warmup_iters: length of the warm-up in iterations.
        warmup_method: "linear" or "constant".
        power: exponent of the polynomial.
        last_epoch: the last finished iteration; -1 at the start.

    Raises:
        UserError: ``warmup_method`` is neither "linear" nor "constant".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        *,
        minimum: float,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        power: float = 0.9,
        last_epoch: int = -1,
    ):
        if warmup_method not in WARMUP_METHODS:
            raise UserError(
                f"SOLVER.WARMUP_METHOD: '{warmup_method}' is not one of 'linear', 'constant'."
            )
        self.max_iters = max_iters
        self.minimum = minimum
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The learning rate of each parameter group at the iteration ``last_epoch``."""
        poly = max(1 - self.last_epoch / self.max_iters, 0) ** self.power
        warmup = self._warmup()
        return [
            warmup * ((base - minimum) * poly + minimum)
            for base in self.base_lrs
            for minimum in [min(self.minimum, base)]
        ]

    def _warmup(self) -> float:
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        done = self.last_epoch / self.warmup_iters
        return self.warmup_factor * (1 - done) + done
