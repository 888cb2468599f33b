"""The training loop, the hooks' interface, and one step of gradient descent."""

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn

from ..utils import comm
from ..utils.events import EventStorage, get_event_storage

__all__ = ["HookBase", "SimpleTrainer", "TrainerBase"]


class HookBase:
    """Something to do at fixed points of the training loop. All methods do nothing by default.

    The order of one iteration is ``before_step``, the step (with ``after_backward`` inside it),
    ``after_step``. What takes time belongs into ``after_step``: `IterationTimer` counts what
    happens between ``before_step`` and its own ``after_step`` as training time.
    """

    trainer: "TrainerBase" = None  # set by register_hooks; a weak reference

    def before_train(self):
        """Called once, before the first iteration."""

    def after_train(self):
        """Called once, after the last iteration, and also if training failed."""

    def before_step(self):
        """Called before each iteration."""

    def after_backward(self):
        """Called when the gradients of an iteration are there."""

    def after_step(self):
        """Called after each iteration."""

    def state_dict(self) -> dict:
        """What a checkpoint keeps of the hook. One with a state also has ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop that calls ``run_step`` and the hooks. A subclass implements ``run_step``.

    Attributes:
        iter: the current iteration; ``max_iter`` after a successful training.
        start_iter: the iteration training started with.
        max_iter: the iteration at which training ends.
        storage: the EventStorage of the running training.
    """

    def __init__(self):
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks; they are called in this order. None entries are skipped."""
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"Expected a subclass of HookBase, got {hook!r}.")
            hook.trainer = weakref.proxy(self)  # a strong one would be a reference cycle
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations ``start_iter`` ... ``max_iter - 1``."""
        logger = logging.getLogger(__name__)
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # tells after_train that training came to its end
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self):
        """Call the hooks' ``before_train``."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self):
        """Call the hooks' ``after_train``."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self):
        """Call the hooks' ``before_step``."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self):
        """Call the hooks' ``after_backward``."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self):
        """Call the hooks' ``after_step``."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self):
        """Do one iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """{"iteration": ..., "hooks": {class name: state}}, "hooks" only if one has a state."""
        state = {"iteration": self.iter}
        hooks = {}
        for hook in self._hooks:
            hook_state = hook.state_dict()
            if hook_state:
                hooks.setdefault(type(hook).__qualname__, hook_state)
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what ``state_dict`` returned. States of hooks that are missing are skipped."""
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            for hook in self._hooks:
                if type(hook).__qualname__ == name:
                    hook.load_state_dict(hook_state)
                    break
            else:
                logging.getLogger(__name__).warning(
                    f"Cannot find the hook '{name}', its state_dict is ignored."
                )


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one source of data.

    Args:
        model: takes a batch and returns its losses by name, or a single loss. It is put into
            training mode here.
        data_loader: an iterable of batches that does not end during training.
        optimizer: of the model's parameters.
    """

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self._data_loader_iter_obj = None

    def run_step(self):
        """Next batch, losses, gradients, metrics, update of the parameters."""
        assert self.model.training, (
            f"[{type(self).__name__}] model was changed to eval mode! "
            "Whatever evaluates during training has to restore model.train()."
        )
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        losses = self.model(data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()

    @property
    def _data_loader_iter(self):
        # Made when it is first used: it may start worker processes.
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Replace the data loader. The old one is given up before the new one is built."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
        try:
            SimpleTrainer.write_metrics(loss_dict, data_time, self.iter)
        except Exception:
            logging.getLogger(__name__).exception("Exception in writing metrics: ")
            raise

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int
    ) -> None:
        """Average the losses over all processes and store them, with their sum, as events.

        All processes must call it. The main process stores; ``data_time`` is the largest of all.

        Args:
            loss_dict: scalar tensors by name.
            data_time: seconds this process waited for its batch.
            cur_iter: the iteration they belong to.

        Raises:
            FloatingPointError: the sum of the losses is not finite (main process).
        """
        metrics = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        metrics["data_time"] = data_time
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)

        gathered = comm.gather(metrics)
        if not comm.is_main_process():
            return
        slowest = np.max([metrics.pop("data_time") for metrics in gathered])
        storage.put_scalar("data_time", slowest, cur_iter=cur_iter)

        means = {name: np.mean([metrics[name] for metrics in gathered]) for name in gathered[0]}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {means}"
            )
        storage.put_scalar("total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict:
        """The base class's state and "optimizer"."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
