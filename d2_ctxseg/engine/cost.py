"""Measures time and memory of a run, and writes them to ``OUTPUT_DIR/cost.json``."""

import json
import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint import training_only_modules
from ..utils.device import peak_memory_so_far, wait_for
from ..utils.files import write_json

FILE_NAME = "cost.json"
# The first calls include the warm-up of the allocator and of kernel libraries.
_WARM_UP = 3

logger = logging.getLogger(__name__)


def read_cost(folder: str | Path) -> dict[str, float]:
    """The measurements of a run; empty if there are none or the file is damaged.

    Returns:
        Those present of ``test_parameters`` (a number), ``seconds_per_iteration`` (median),
        ``seconds_per_image`` (median, single-scale prediction without reading the file),
        ``peak_memory_bytes`` of the training (of tensors on a GPU, of the process on a CPU),
        ``threads`` and ``device``.
    """
    try:
        content = json.loads((Path(folder) / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def record_cost(folder: str | Path, values: Mapping[str, object]) -> None:
    """Add values to the run's ``cost.json``; only the main process writes."""
    if comm.is_main_process():
        write_json(Path(folder) / FILE_NAME, {**read_cost(folder), **values})


def count_test_parameters(model: nn.Module) -> int:
    """The number of parameters without those of modules that only training needs."""
    prefixes = tuple(f"{name}." for name in training_only_modules(model))
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(prefixes))


class CostOfTraining(HookBase):
    """Records the time per step and the peak memory at the end of a training."""

    def __init__(self, output_dir: str):
        self.output_dir = output_dir

    def after_train(self) -> None:
        """Write the figures of this process, unless the training made no step."""
        history = self.trainer.storage.histories().get("time")
        if history is None:
            return
        device = next(self.trainer.model.parameters()).device
        record_cost(
            self.output_dir,
            {
                "seconds_per_iteration": statistics.median(value for value, _ in history.values()),
                "peak_memory_bytes": peak_memory_so_far(device),
                **machine(device),
            },
        )


def machine(device: torch.device) -> dict[str, object]:
    """The device's name, and the threads of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "threads": torch.get_num_threads()}


class TimedModel(nn.Module):
    """A model that measures the time of each call.

    Args:
        model: called as Detectron2 calls a model, on a list of dicts.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        # Detectron2 restores the mode of this module, and with it the mode of the model.
        self.training = model.training
        self._seconds: list[float] = []

    def forward(self, batched_inputs: list[dict]):
        """The output of the model."""
        device = next(self.parameters()).device
        wait_for(device)
        start = time.perf_counter()
        outputs = self.model(batched_inputs)
        wait_for(device)
        self._seconds.append((time.perf_counter() - start) / len(batched_inputs))
        return outputs

    def seconds_per_image(self) -> float | None:
        """The median over all calls but the first few; None if there were no others."""
        seconds = self._seconds[_WARM_UP:]
        return statistics.median(seconds) if seconds else None
