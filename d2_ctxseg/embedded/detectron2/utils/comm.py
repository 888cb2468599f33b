"""Communication between the processes of a run, on ``torch.distributed``.

Everything here also works in a run of one process, where nothing is sent.
"""

import functools

import numpy as np
import torch
import torch.distributed as dist

_local_process_group = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """The number of this process, from 0, over all machines."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and logs: the one with rank 0."""
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the process group of each machine. All processes call this together, once.

    ``detectron2.engine.launch`` does it. A repeated call does nothing.

    Args:
        num_workers_per_machine: the number of processes a machine runs.
    """
    global _local_process_group
    world_size = get_world_size()
    assert _local_process_group is None, "The local process groups exist already."
    assert world_size % num_workers_per_machine == 0, (
        f"{world_size} processes cannot be {num_workers_per_machine} on each machine."
    )
    # Every process takes part in making every group, in the same order: torch demands it.
    for first in range(0, world_size, num_workers_per_machine):
        ranks = range(first, first + num_workers_per_machine)
        group = dist.new_group(list(ranks))
        if get_rank() in ranks:
            _local_process_group = group


def _forget_process_groups() -> None:
    """Drop the groups held here, so that destroying them ends their threads."""
    global _local_process_group
    _local_process_group = None
    create_local_process_group.cache_clear()
    _gloo_group.cache_clear()


def get_local_process_group():
    """The torch process group of the processes on this machine.

    Raises:
        AssertionError: it was not made yet.
    """
    assert _local_process_group is not None, (
        "There is no local process group yet. Start the processes with detectron2.engine.launch, "
        "or call comm.create_local_process_group(num_workers_per_machine) right after "
        "torch.distributed.init_process_group()."
    )
    return _local_process_group


def get_local_rank() -> int:
    """The number of this process, from 0, on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def synchronize() -> None:
    """Wait until all processes have come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without the device, NCCL has to guess it, and warns.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _gloo_group():
    """All processes, talking through main memory: objects must not take memory of the GPU."""
    if dist.get_backend() == dist.Backend.NCCL:
        return dist.new_group(backend="gloo")
    return dist.group.WORLD


def all_gather(data, group=None) -> list:
    """Send an object of each process to all of them.

    Args:
        data: anything that can be pickled; on any device.
        group: a torch process group; by default one of all processes that talks through gloo.

    Returns:
        The objects of all processes of the group, by rank.
    """
    if get_world_size() == 1:
        return [data]
    group = group or _gloo_group()
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    gathered = [None] * size
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data, dst: int = 0, group=None) -> list:
    """Send an object of each process to one of them.

    Args:
        data: anything that can be pickled; on any device.
        dst: the rank of the receiver.
        group: a torch process group; by default one of all processes that talks through gloo.

    Returns:
        On the receiver, the objects of all processes of the group, by rank; elsewhere ``[]``.
    """
    if get_world_size() == 1:
        return [data]
    group = group or _gloo_group()
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    is_receiver = dist.get_rank(group) == dst
    gathered = [None] * size if is_receiver else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered if is_receiver else []


def shared_random_seed() -> int:
    """A random number, drawn with numpy, that is the same in all processes. All must call this."""
    # The global generator: seed_all_rng seeds it, and Detectron2 draws from it, too.
    return all_gather(np.random.randint(2**31))[0]  # noqa: NPY002
