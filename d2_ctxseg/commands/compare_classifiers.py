"""Train classifiers on one base config with several seeds, and compare their scores."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..comparison import (
    PlannedRun,
    Study,
    compare,
    markdown_table,
    parse_variant,
    plan_runs,
    read_planned,
    read_study,
)
from ..comparison.jobs import Slot, make_slots, run_jobs
from ..comparison.page import write_page
from ..comparison.plan import RunState, run_state
from ..deployment.analysis import measure_training_step
from ..engine import setup_config
from ..engine.cost import read_cost
from ..utils.errors import UserError, suggest
from ..utils.files import atomic_write, write_json
from .model_config import config_file_of, overrides_of


def main(arguments: argparse.Namespace) -> None:
    if arguments.runs:
        study = read_study(arguments.runs, arguments.baseline or "")
        write_results(study, arguments)
        return
    config_file = config_file_of(arguments)
    if not config_file:
        raise UserError("--config-file is missing: set the base config of all runs.")
    variants = [parse_variant(text) for text in arguments.classifiers]
    baseline = arguments.baseline or variants[0].label
    labels = [variant.label for variant in variants]
    if baseline not in labels:
        raise UserError(
            f"--baseline: '{baseline}' is not one of {', '.join(labels)}."
            f"{suggest(baseline, labels)}"
        )
    runs = plan_runs(
        config_file, variants, arguments.seeds, arguments.output, overrides_of(arguments)
    )
    if arguments.print_commands:
        print("\n".join(run.shell_command() for run in runs))
        return
    states = {run.folder: run_state(run) for run in runs}
    slots = make_slots(arguments.jobs)
    if not arguments.gather:
        print_plan(runs, states, slots)
        if arguments.dry_run:
            return
        waiting = [run for run in runs if not states[run.folder].finished]
        iterations = {run.folder: run.config().SOLVER.MAX_ITER for run in waiting}
        if waiting:
            run_jobs(waiting, slots, iterations)
    write_results(finished_study(runs, baseline), arguments)


def print_plan(
    runs: Sequence[PlannedRun], states: dict[Path, RunState], slots: Sequence[Slot]
) -> None:
    """Print the runs, their progress, and the estimated remaining time."""
    base = setup_config(runs[0].config_file, [])
    print(
        f"{runs[0].config_file}: its MODEL.META_ARCHITECTURE {base.MODEL.META_ARCHITECTURE} is "
        "replaced in each run."
    )
    print(f"{len(runs)} runs, {len(slots)} at a time, each with {slots[0]}:")
    seconds, step_seconds = 0.0, {}
    for run in runs:
        state, cfg = states[run.folder], run.config()
        rest = 0 if state.finished else max(cfg.SOLVER.MAX_ITER - state.iteration, 0)
        how_far = f"{state.iteration} of {cfg.SOLVER.MAX_ITER} iterations done"
        print(f"  {run.folder}: {'finished' if state.finished else how_far}")
        if not state.finished and cfg.TEST.EVAL_PERIOD == 0 and run is runs[0]:
            print("  TEST.EVAL_PERIOD is 0: there will be no learning curves.")
        if rest:
            label = run.variant.label
            if label not in step_seconds:
                step_seconds[label] = _seconds_per_step(run, runs, slots[0])
            seconds += rest * step_seconds[label]
    if seconds:
        print(f"Estimated time without evaluations: {_duration(seconds / len(slots))}.", flush=True)


def _seconds_per_step(run: PlannedRun, runs: Sequence[PlannedRun], slot: Slot) -> float:
    """Seconds per step: from a finished run of the classifier, or measured on random images."""
    for other in runs:
        cost = read_cost(other.folder)
        if other.variant == run.variant and "seconds_per_iteration" in cost:
            return cost["seconds_per_iteration"]
    return measure_training_step(run.config(), threads=slot.threads)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def finished_study(runs: Sequence[PlannedRun], baseline: str) -> Study:
    """The finished runs of the plan; the others are printed."""
    folders = {run.variant.label: [] for run in runs}
    for run in runs:
        if run_state(run).finished:
            folders[run.variant.label].append(run.folder)
        else:
            print(f"Not finished, left out: {run.folder}", file=sys.stderr)
    if not folders[baseline]:
        raise UserError(
            f"No run of the baseline '{baseline}' is finished: there is nothing to compare with."
        )
    return read_planned(folders, baseline)


def write_results(study: Study, arguments: argparse.Namespace) -> None:
    """Write the three files into the output folder, and print the table."""
    content = compare(study, arguments.dataset, num_resamples=arguments.num_resamples)
    output = Path(arguments.output)
    write_json(output / "comparison.json", content)
    table = markdown_table(content)
    with atomic_write(output / "comparison.md") as file:
        file.write(table + "\n")
    page = write_page(study, content, output / "comparison.html")
    print(f"\n{table}\n")
    for label, text in content["sentences"].items():
        print(f"{label}: {text}")
    print(f"\nWritten: {output / 'comparison.json'}, {output / 'comparison.md'}, {page}")
