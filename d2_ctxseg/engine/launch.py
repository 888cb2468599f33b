"""Start the processes of a run with Detectron2's launch, or join those of torchrun."""

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
_SECONDS_TO_REPORT = 3


def launch_or_join(main: Callable, args) -> None:
    """Run ``main(args)`` in every process of the run.

    Under ``torchrun`` this process joins the process group that torchrun describes. Otherwise it
    starts ``args.num_gpus`` processes on this machine, which is one of ``args.num_machines``. The
    backend is NCCL on GPUs and Gloo on the CPU. Ctrl-C and SIGTERM sent to this process are passed
    on to the processes it started.

    Args:
        main: the function to run; it is called as ``main(args)``.
        args: ``num_gpus`` (processes on this machine), ``num_machines``, ``machine_rank`` and
            ``dist_url``, as Detectron2's ``default_argument_parser`` gives them.

    Raises:
        UsageError: a number of processes or machines, or the rendezvous address, is invalid.
        UserError: the machine has GPUs, but fewer than processes are requested.
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
            # The process has logged the reason.
            sys.exit(128 + received[0] if received else error.exit_code)


@contextmanager
def _passed_on_signals(num_processes: int) -> Iterator[list[int]]:
    """Pass signals on to the processes that this one started.

    Those processes finish their step and save a checkpoint; this one waits for them.

    Args:
        num_processes: how many processes will be started. 0: this process does the work itself,
            and its signal handlers stay as they are.

    Yields:
        The signal numbers received so far.
    """
    received = []

    def pass_on(number: int, frame) -> None:
        received.append(number)
        processes = multiprocessing.active_children()
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        if len(processes) < num_processes:  # some have not started yet, or have ended
            raise KeyboardInterrupt(number)

    signals = SIGNALS if num_processes else ()
    before = {number: signal.signal(number, pass_on) for number in signals}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _main_of_process(main: Callable, args) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # the script resets it for its imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with exit_on_user_error(), _first_process_first():
        try:
            main(args)
        except WriteError:
            _close_log_files()
            raise


def _close_log_files() -> None:
    """Discard unwritten log lines. Flushing them when Python exits would print a traceback."""
    for name in ("detectron2", "fvcore", "d2_ctxseg"):
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            if stream not in (None, sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.close()


@contextmanager
def _first_process_first() -> Iterator[None]:
    """Let rank 0 report an error that all processes share; the exit of rank 0 ends the others."""
    try:
        yield
    except Exception:
        if comm.get_rank() > 0:
            time.sleep(_SECONDS_TO_REPORT)
        raise


def _join_torchrun() -> None:
    """Join the process group described by torchrun's environment variables."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
