#!/usr/bin/env python
"""Kill trainings at random times, resume them, and compare them with an uninterrupted one.

    python tests/torture/random_kills.py --kills 50
    python tests/torture/random_kills.py --kills 10 --cases "two processes" --seed 3

Each case is a run of 30 iterations with a tiny model. Its result (weights, prototypes, optimizer,
random numbers, metrics, best checkpoint, files of the evaluation) has to be that of the run that
was not interrupted, bit for bit. The exit code is 1 if one is not.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import d2_ctxseg  # noqa: F401  (makes detectron2 importable)

# isort: split
import torch
import torch.utils.tensorboard  # noqa: F401  (the runs need not import it again)
from resume_runs import differences, start, wait, write_config, write_dataset

KILLS_OF_A_RUN = 5
CASES = {
    "prototypes": [],
    "accumulation and EMA": ["SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.EMA.ENABLED", True],
    "bfloat16": ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16"]
    + ["MODEL.META_ARCHITECTURE", "ContextAwareSegmentor", "SOLVER.OPTIMIZER", "SGD"],
    "shapes mixed, precise batch norm": ["DATALOADER.ASPECT_RATIO_GROUPING", False]
    + ["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 3],
    "two processes": ["SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.EMA.ENABLED", True],
}


class Run:
    """A training of one case in a folder of its own."""

    def __init__(self, folder: Path, name: str, case: str):
        self.output = folder / name
        self.console = folder / f"{name}.txt"
        config = write_config(folder / f"{name}.yaml", self.output)
        self.arguments = ["--config-file", config, "--resume", *CASES[case]]
        self.num_processes = 2 if case == "two processes" else 1

    def start(self, num_workers: int) -> list[int]:
        """The ids of its processes, each with a group of its own."""
        arguments = [*self.arguments, "DATALOADER.NUM_WORKERS", num_workers]
        if self.num_processes == 1:
            return [start(*arguments, console=self.console)]
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        return [
            start(*arguments, console=self.console, before=lambda rank=rank: _join(rank, port))
            for rank in range(self.num_processes)
        ]


def _join(rank: int, port: int) -> None:
    """What torchrun tells a process."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="torture",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE="2",
    )


def main() -> int:
    """Run the cases in turn until there were enough kills; the number of runs that differ."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="torture_"))
    os.environ["DETECTRON2_DATASETS"] = str(folder / "datasets")
    write_dataset(folder / "datasets")
    references, kills, runs, failures = {}, Counter(), Counter(), []
    cases = arguments.cases or list(CASES)
    while kills.total() < arguments.kills:
        case = cases[runs.total() % len(cases)]
        if case not in references:
            references[case] = reference(folder, case)
        run = Run(folder, f"killed_{runs.total()}", case)
        kills += torture(run, rng, references[case][1], arguments.kills - kills.total())
        runs[case] += 1
        found = differences(references[case][0].output, run.output)
        failures += [f"{run.output}: {line}" for line in found]
        print(f"{case}: {'; '.join(found) or 'equal'} ({kills.total()} kills)", flush=True)
        if not found:
            shutil.rmtree(run.output)
    print(f"Runs: {dict(runs)}\nEnded by: {dict(kills)}\nDifferent: {len(failures)}")
    if not failures:
        shutil.rmtree(folder)
    return int(bool(failures))


def reference(folder: Path, case: str) -> tuple[Run, float]:
    """An uninterrupted run, and its duration in seconds."""
    run = Run(folder, f"whole_{list(CASES).index(case)}", case)
    begin = time.monotonic()
    codes = [wait(pid) for pid in run.start(num_workers=0)]
    if any(codes):
        sys.exit(f"The run of '{case}' failed: see {run.console}")
    return run, time.monotonic() - begin


def torture(run: Run, rng: random.Random, seconds: float, most: int) -> Counter:
    """Kill a run at random moments and resume it, a few times; then let it end."""
    kills = Counter()
    for _ in range(min(KILLS_OF_A_RUN, most)):
        pids = run.start(rng.randrange(3))
        time.sleep(rng.uniform(0.2, seconds))
        ended = dict(os.waitpid(pid, os.WNOHANG) for pid in pids)
        if any(ended.values()):
            sys.exit(f"A run failed: see {run.console}")
        if all(pid in ended for pid in pids):
            return kills  # it was through
        # Most often without warning; the group with its loader workers, or the process alone.
        number = rng.choice([signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT])
        to_group = rng.random() < 0.7
        running = [pid for pid in pids if pid not in ended]
        for pid in running:
            (os.killpg if to_group else os.kill)(pid, number)
        for pid in running:
            wait(pid)
        kills[f"{number.name} to the {'group' if to_group else 'process'}"] += 1
    codes = [wait(pid) for pid in run.start(rng.randrange(3))]
    if any(codes):
        sys.exit(f"A resumed run failed: see {run.console}")
    return kills


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="how often to kill")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), help="all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
