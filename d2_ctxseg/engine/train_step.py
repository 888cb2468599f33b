"""A training step of several micro-batches and in mixed precision."""

import time
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detectron2.engine import SimpleTrainer

from ..classifiers import PixelClassifier


class MicroBatchTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer and AMPTrainer in one, with gradient accumulation.

    The gradients of the micro-batches, and the losses in the log, are averaged before the step of
    the optimizer. Without BatchNorm, and where all micro-batches have equally many labelled pixels,
    this equals the step on one large batch. Processes exchange gradients in the last micro-batch
    only.

    Args:
        model: takes a batch and returns losses by name. It is put into training mode.
        data_loader: an endless stream of micro-batches.
        optimizer: optimizer of the model's parameters.
        accumulation_steps: micro-batches per step; also set on the classifiers in the model.
        precision: precision of autocast, torch.float16 (with scaled gradients) or torch.bfloat16;
            None turns it off.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        accumulation_steps: int = 1,
        precision: torch.dtype | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.accumulation_steps = accumulation_steps
        for module in model.modules():
            if isinstance(module, PixelClassifier):
                module.accumulation_steps = accumulation_steps
        self.precision = precision
        self.device_type = next(model.parameters()).device.type
        # A scaler that is not enabled has no effect.
        self.grad_scaler = torch.amp.GradScaler(
            self.device_type, enabled=precision == torch.float16
        )

    def run_step(self) -> None:
        """All micro-batches forward and backward, metrics, one step of the optimizer."""
        assert self.model.training, "the model was changed to eval mode"
        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {}
        data_time = 0.0
        for number in range(self.accumulation_steps):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            with self._local_gradients(is_last=number == self.accumulation_steps - 1):
                batch_losses = self._losses(batch)
                total = sum(batch_losses.values()) / self.accumulation_steps
                self.grad_scaler.scale(total).backward()
            for name, loss in batch_losses.items():
                losses[name] = losses.get(name, 0) + loss.detach() / self.accumulation_steps
        self.after_backward()
        self._write_metrics(losses, data_time)
        # Unscales the gradients, and skips the step where they are not finite.
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _losses(self, batch) -> dict[str, Tensor]:
        enabled = self.precision is not None
        with torch.autocast(self.device_type, dtype=self.precision, enabled=enabled):
            return self.model(batch)

    def _local_gradients(self, is_last: bool):
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def state_dict(self) -> dict:
        """The base class's state and, with scaled gradients, "grad_scaler", as in AMPTrainer."""
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the result of ``state_dict``."""
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
