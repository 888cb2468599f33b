"""Starts the workers: Detectron2's launch, or those that torchrun has started already."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
from torch.multiprocessing import ProcessExitedException

from detectron2.engine import launch
from detectron2.utils import comm

from ..utils.errors import UserError, exit_on_user_error

TIMEOUT = timedelta(minutes=30)


def launch_or_join(main: Callable, args) -> None:
    """Run ``main(args)`` in every worker.

    Under ``torchrun`` this process is one of the workers and joins their group. Otherwise
    ``args.num_gpus`` processes are started on this machine, one of ``args.num_machines``.
    Processes talk through nccl where GPUs are present and through gloo where not.

    Raises:
        UserError: more processes than GPUs are asked for on a machine that has GPUs, or several
            machines without an address to meet at.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        _main_of_worker(main, args)
        return
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError(
            "--num-machines needs --dist-url: tcp://HOST:PORT of the machine with "
            "--machine-rank 0, the same on all machines."
        )
    num_gpus = torch.cuda.device_count()
    if num_gpus and args.num_gpus > num_gpus:
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {num_gpus}.")
    try:
        launch(
            _main_of_worker,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except ProcessExitedException as error:
        sys.exit(error.exit_code)  # the worker has said why


def _main_of_worker(main: Callable, args) -> None:
    with exit_on_user_error():
        main(args)


def _join_torchrun() -> None:
    """Join the group described by the variables that torchrun sets."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
