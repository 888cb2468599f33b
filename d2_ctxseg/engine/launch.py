"""Starts the processes of a run: Detectron2's launch, or those that torchrun has started."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch.multiprocessing import ProcessExitedException

from detectron2.engine import launch
from detectron2.utils import comm

from ..utils.errors import UserError, exit_on_user_error
from ..utils.files import WriteError
from .interrupts import SIGNALS
from .launch_arguments import check_launch_arguments

TIMEOUT = timedelta(minutes=30)
_SECONDS_TO_SAY_IT = 3


def launch_or_join(main: Callable, args) -> None:
    """Run ``main(args)`` in every process of the run.

    Under ``torchrun`` this process is one of them and joins their group. Otherwise
    ``args.num_gpus`` processes are started on this machine, one of ``args.num_machines``.
    Processes talk through nccl where GPUs are present and through gloo where not. Ctrl-C and
    SIGTERM to this process alone reach them, too.

    Raises:
        UsageError: the processes asked for cannot be, or have no address to meet at.
        UserError: more processes than GPUs are asked for on a machine that has GPUs.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        _main_of_process(main, args)
        return
    check_launch_arguments(args)
    num_gpus = torch.cuda.device_count()
    if num_gpus and args.num_gpus > num_gpus:
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {num_gpus}.")
    world_size = args.num_gpus * args.num_machines
    with _passed_on_signals(args.num_gpus if world_size > 1 else 0) as received:
        try:
            launch(
                _main_of_process,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args),
            )
        except ProcessExitedException as error:
            # The process has said why.
            sys.exit(128 + received[0] if received else error.exit_code)


@contextmanager
def _passed_on_signals(num_processes: int) -> Iterator[list[int]]:
    """Yields the signals that came to this process, and passes them on to those it started.

    These finish their step and save; this one waits for them.

    Args:
        num_processes: how many will be started; 0: this process does the work itself.
    """
    received = []

    def pass_on(number: int, frame) -> None:
        received.append(number)
        processes = multiprocessing.active_children()
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        if len(processes) < num_processes:  # they are being started, or have ended
            raise KeyboardInterrupt(number)

    signals = SIGNALS if num_processes else ()
    before = {number: signal.signal(number, pass_on) for number in signals}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _main_of_process(main: Callable, args) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as the script leaves it for its imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with exit_on_user_error(), _first_process_first():
        try:
            main(args)
        except WriteError:
            _close_log_files()
            raise


def _close_log_files() -> None:
    """Give up lines that the disk did not take; at Python's exit they would be a traceback."""
    for name in ("detectron2", "fvcore", "d2_ctxseg"):
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            if stream not in (None, sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.close()


@contextmanager
def _first_process_first() -> Iterator[None]:
    """Lets the first process say what is wrong for all; its end ends the others, which wait."""
    try:
        yield
    except Exception:
        if comm.get_rank() > 0:
            time.sleep(_SECONDS_TO_SAY_IT)
        raise


def _join_torchrun() -> None:
    """Join the group described by the variables that torchrun sets."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
