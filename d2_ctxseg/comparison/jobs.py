"""Runs of a study side by side on one machine, each a process of train_net.py.

Many machines are the user's scheduler's: ``--print-commands`` gives it one command a run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ..utils.errors import UserError
from .plan import PlannedRun, iterations_done

CONSOLE_FILE = "console.txt"
_POLL_SECONDS = 0.5
_LINES_SHOWN = 3


@dataclass(frozen=True)
class Slot:
    """The resources of one of the parallel runs.

    Attributes:
        threads: number of CPU threads.
        gpus: indices of GPUs; empty on a machine without one.
    """

    threads: int
    gpus: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """The variables that keep a run to its slot."""
        variables = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = [visible[i] if visible != [""] else str(i) for i in self.gpus]
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        return variables

    def __str__(self) -> str:
        gpus = f", GPU {', '.join(map(str, self.gpus))}" if self.gpus else ""
        return f"{self.threads} CPU thread{'s' if self.threads > 1 else ''}{gpus}"


def make_slots(jobs: int, cores: int | None = None, gpus: int | None = None) -> list[Slot]:
    """Divide this machine's cores and GPUs evenly among ``jobs`` runs.

    With more jobs than GPUs, several runs use one GPU.

    Args:
        jobs: runs side by side.
        cores, gpus: numbers of the machine's cores and GPUs; None: detect them.

    Raises:
        UserError: fewer than one job, or more than cores.
    """
    cores = cores or len(os.sched_getaffinity(0))
    gpus = torch.cuda.device_count() if gpus is None else gpus
    if not 1 <= jobs <= cores:
        raise UserError(f"--jobs {jobs}: expected 1 to {cores}, the cores of this machine.")
    each = max(gpus // jobs, 1)
    return [
        Slot(cores // jobs, tuple((i * each + k) % gpus for k in range(each)) if gpus else ())
        for i in range(jobs)
    ]


class _Job:
    """A run in its process; what it prints goes to ``console.txt`` in its folder."""

    def __init__(self, run: PlannedRun, slot: Slot):
        self.run, self.slot = run, slot
        run.folder.mkdir(parents=True, exist_ok=True)
        gpus = ("--num-gpus", str(len(slot.gpus))) if len(slot.gpus) > 1 else ()
        with open(run.folder / CONSOLE_FILE, "ab") as console:
            # A session of its own: Ctrl-C reaches this program alone, which passes it on once.
            self.process = subprocess.Popen(
                run.command(*gpus),
                stdout=console,
                stderr=subprocess.STDOUT,
                env=slot.environment(),
                start_new_session=True,
                preexec_fn=_listen_to_interrupts,
            )

    def failure(self) -> str | None:
        """The last message of the run if it ended with an error."""
        if self.process.returncode == 0:
            return None
        lines = (self.run.folder / CONSOLE_FILE).read_text("utf-8", "replace").splitlines()
        said = " | ".join(line.strip() for line in lines if line.strip()[:5] == "error") or (
            " | ".join(line.strip() for line in lines[-_LINES_SHOWN:])
        )
        return f"{self.run.folder} (exit code {self.process.returncode}): {said}"


def run_jobs(
    runs: Sequence[PlannedRun],
    slots: Sequence[Slot],
    max_iterations: dict[Path, int],
) -> None:
    """Train and evaluate the runs, as many side by side as there are slots.

    Ctrl-C (or SIGTERM) is passed on to the runs, each of which leaves a checkpoint.

    Args:
        runs: those that are not finished; interrupted ones are continued.
        slots: see :func:`make_slots`.
        max_iterations: SOLVER.MAX_ITER by folder.

    Raises:
        UserError: runs ended with an error, after all others have finished.
        KeyboardInterrupt: after all runs have stopped.
    """
    waiting, free, active, failures = list(runs), list(slots), [], []
    previous = signal.signal(signal.SIGTERM, _as_interrupt)
    total = sum(max_iterations[run.folder] for run in runs)
    # A line a minute where the output goes to a file.
    interval = 1 if sys.stderr.isatty() else 60
    bar = tqdm(total=total, unit="iteration", dynamic_ncols=True, mininterval=interval)
    bar.initial = bar.last_print_n = bar.n = sum(iterations_done(run.folder) for run in runs)
    try:
        while waiting or active:
            while waiting and free:
                job = _Job(waiting.pop(0), free.pop(0))
                active.append(job)
                bar.write(f"{job.run.folder}: started with {job.slot}", file=sys.stderr)
            time.sleep(_POLL_SECONDS)
            for job in [job for job in active if job.process.poll() is not None]:
                active.remove(job)
                free.append(job.slot)
                failure = job.failure()
                failures += [failure] if failure else []
                bar.write(failure or f"{job.run.folder}: finished", file=sys.stderr)
            done = sum(min(iterations_done(r.folder), max_iterations[r.folder]) for r in runs)
            bar.set_postfix_str(f"{len(active)} running, {len(waiting)} waiting", refresh=False)
            bar.update(max(done - bar.n, 0))
    except KeyboardInterrupt:
        _stop(active, bar)
        raise
    finally:
        bar.close()
        signal.signal(signal.SIGTERM, previous)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} runs ended with an error; the same command tries them "
            "again.\n" + "\n".join(failures)
        )


def _stop(active: Sequence[_Job], bar: tqdm) -> None:
    """Let the runs leave a checkpoint; a second Ctrl-C ends them at once."""
    bar.write("Stopping: each run saves a checkpoint ...", file=sys.stderr)
    for job in active:
        os.killpg(job.process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    try:
        for job in active:
            job.process.wait()
    except KeyboardInterrupt:
        for job in active:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()


def _listen_to_interrupts() -> None:
    """In the child: a program started in the background of a script ignores SIGINT otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _as_interrupt(number, frame):
    raise KeyboardInterrupt
