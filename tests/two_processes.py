"""Runs a function in two processes that form a gloo group on the CPU."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


def run_in_two_processes(function: Callable, folder: Path, *args) -> None:
    """Call ``function(rank, *args)`` in both processes; an exception of one is raised here.

    Args:
        function: at the top level of a module.
        folder: where the processes meet; it must not be used for two calls.
        args: picklable.
    """
    meeting = f"file://{folder}/meeting"
    torch.multiprocessing.spawn(_one_of_two, (function, meeting, args), nprocs=2)


def _one_of_two(rank: int, function: Callable, meeting: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    function(rank, *args)
    # Gloo aborts a process whose partner is gone while its threads still talk, and so may the
    # destructors at the end of an interpreter: both wait for each other, and leave without them.
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)
