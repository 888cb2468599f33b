"""A running average of the weights beside the weights."""

import os

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..utils.errors import UserError
from ..utils.files import atomic_write

FINAL_FILE = "model_final_ema.pth"


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` that follows it: ``average = decay * average + (1 - decay) * weights``.

    Buffers (batch statistics, prototypes) are copied as they are. The first update copies the
    weights too, so that loading a checkpoint into ``model`` before training is enough.

    Args:
        model: not wrapped for distributed training.
        decay: in [0, 1).

    Raises:
        UserError: another decay.
    """
    if not 0 <= decay < 1:
        raise UserError(f"SOLVER.EMA.DECAY is {decay}, expected a number in [0, 1).")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return average.requires_grad_(False).eval()


class AverageWeights(HookBase):
    """Updates the average after each step and writes it at the end of training.

    All workers have the same weights, so each averages for itself.

    Args:
        average: from :func:`average_of`; its state is in the run's checkpoints as "ema".
        model: what it follows.
        output_dir: where ``model_final_ema.pth`` goes, which is a checkpoint like any other.
    """

    def __init__(self, average: AveragedModel, model: nn.Module, output_dir: str):
        self.average = average
        self.model = model
        self.path = os.path.join(output_dir, FINAL_FILE)

    def after_step(self) -> None:
        """Take the step's weights into the average."""
        self.average.update_parameters(self.model)

    def after_train(self) -> None:
        """Write the average, unless training was cut short."""
        if comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
            with atomic_write(self.path, "wb") as file:
                torch.save({"model": self.average.module.state_dict()}, file)
