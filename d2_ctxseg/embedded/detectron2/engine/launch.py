"""Starts a function in one process, or in several that form a process group."""

import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run ``main_func(*args)`` in every process of a (possibly distributed) job.

    With one process in total it is a plain call. Otherwise each machine has to call this function;
    it starts the machine's processes, waits for them, and raises if one of them fails. They
    communicate over NCCL where there are GPUs (process i uses GPU i), over Gloo elsewhere.

    Args:
        main_func: picklable, i.e. a function at the top level of a module.
        num_gpus_per_machine: processes on each machine; with GPUs, at most their number.
        num_machines: machines in the job.
        machine_rank: which of them this one is, from 0.
        dist_url: where processes meet, the same on every machine: "tcp://<host of machine
            0>:<free port>". "auto" takes a free port of this machine.
        timeout: after which a collective operation fails.

    Raises:
        ValueError: ``dist_url`` is missing, or "auto" with several machines.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    dist_url = _resolve_dist_url(dist_url, num_machines)
    mp.start_processes(
        _run_worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
    )


def _resolve_dist_url(dist_url: str | None, num_machines: int) -> str:
    if dist_url is None:
        raise ValueError(
            "launch() of several processes needs a dist_url: 'auto' on a single machine, "
            "otherwise 'tcp://<host of machine 0>:<free port>'."
        )
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError(
                f"dist_url 'auto' works on one machine only, but num_machines is {num_machines}. "
                "Give every machine the same 'tcp://<host of machine 0>:<free port>'."
            )
        return f"tcp://127.0.0.1:{_find_free_port()}"
    return dist_url


def _find_free_port() -> int:
    # Another process may take the port before ours does; then the start fails with its number.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _run_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_processes: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu and num_processes > torch.cuda.device_count():
        raise ValueError(
            f"{num_processes} processes were asked for on this machine, which has "
            f"{torch.cuda.device_count()} GPU(s). Each process needs one: lower --num-gpus."
        )
    try:
        dist.init_process_group(
            backend="nccl" if has_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_processes + local_rank,
            timeout=timeout,
        )
    except Exception as error:
        raise RuntimeError(f"The processes could not meet at dist_url {dist_url!r}.") from error
    comm.create_local_process_group(num_processes)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    # The first collective call may time out if some processes are still starting.
    comm.synchronize()
    main_func(*args)
    # A group that somebody still holds at exit may abort the process, its threads being alive.
    comm._forget_process_groups()
    dist.destroy_process_group()
