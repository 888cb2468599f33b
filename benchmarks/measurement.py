"""Measure the time and peak memory of calls that are interleaved in random order."""

import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from d2_ctxseg.utils.device import peak_memory, wait_for
from d2_ctxseg.utils.errors import UserError


@dataclass
class Task:
    """A call to measure, and its results.

    Attributes:
        table: key of the table that shows it.
        name: name of the row.
        phase: "test" or "training".
        module: the module that the call uses.
        call: the function to measure.
        seconds: the measured times.
        memory: peak memory in bytes.
    """

    table: str
    name: str
    phase: str
    module: nn.Module
    call: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    memory: int = 0

    def prepare(self) -> None:
        """Set the mode of the module for this call."""
        self.module.train(self.phase == "training")

    def run(self) -> None:
        """Run the call."""
        with torch.set_grad_enabled(self.phase == "training"):
            self.call()

    def release(self) -> None:
        """Delete the gradients, so that the next call allocates new ones."""
        self.module.zero_grad(set_to_none=True)

    def run_and_release(self) -> None:
        """Run the call and delete its gradients."""
        self.run()
        self.release()


def measure(tasks: list[Task], repeats: int, device: torch.device) -> None:
    """Measure the memory of each task once and its time ``repeats`` times."""
    order, generator = list(tasks), random.Random(0)
    with tqdm(total=len(tasks) * (repeats + 2), unit="call") as progress:
        for task in tasks:
            progress.set_description("warm-up and memory")
            _seconds(task, device)
            progress.update()
            task.prepare()
            task.memory = peak_memory(task.run_and_release, device)
            progress.update()
        for repeat in range(repeats):
            progress.set_description(f"repeat {repeat + 1} of {repeats}")
            generator.shuffle(order)
            for task in order:
                task.seconds.append(_seconds(task, device))
                progress.update()


def _seconds(task: Task, device: torch.device) -> float:
    task.prepare()
    wait_for(device)
    start = time.perf_counter()
    task.run()
    wait_for(device)
    seconds = time.perf_counter() - start
    task.release()
    return seconds


def usable_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        UserError: the device is not available.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device: '{name}' cannot be used ({error}). Use 'cpu' or 'cuda'."
        ) from error
    return device


def describe_environment(device: torch.device) -> dict[str, object]:
    """The machine and the versions that the figures are measured with."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif cpu_info.exists():
        lines = cpu_info.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return {
        "device": name,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
