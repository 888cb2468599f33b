"""Exponential moving average (EMA) of the weights."""

import os

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..utils.errors import UserError
from ..utils.files import atomic_write

FINAL_FILE = "model_final_ema.pth"


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` with averaged weights: ``ema = decay * ema + (1 - decay) * weights``.

    Buffers (batch statistics, prototypes) are copied. The first update copies the weights as well,
    so that a checkpoint may be loaded into ``model`` before training.

    Args:
        model: the model, not wrapped for distributed training.
        decay: decay of the average, in [0, 1).

    Raises:
        UserError: the decay is out of range.
    """
    if not 0 <= decay < 1:
        raise UserError(f"SOLVER.EMA.DECAY is {decay}, expected a number in [0, 1).")
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return ema.requires_grad_(False).eval()


class UpdateEMA(HookBase):
    """Updates the EMA after each step and writes it at the end of training.

    All processes have the same weights, so each computes its own.

    Args:
        ema: the average from :func:`build_ema`; its state is in the run's checkpoints as "ema".
        model: the model that is averaged.
        cfg: of the run; ``model_final_ema.pth``, which is a checkpoint like any other, goes into
            its OUTPUT_DIR.
    """

    def __init__(self, ema: AveragedModel, model: nn.Module, cfg: CfgNode):
        self.ema = ema
        self.model = model
        self.path = os.path.join(cfg.OUTPUT_DIR, FINAL_FILE)
        self.config = cfg.dump()

    def after_step(self) -> None:
        """Update the EMA with the weights of the step."""
        self.ema.update_parameters(self.model)

    def after_train(self) -> None:
        """Write the EMA, unless training was stopped early."""
        if comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
            with atomic_write(self.path, "wb") as file:
                torch.save({"model": self.ema.module.state_dict(), "config": self.config}, file)
