"""Train classifiers on one base config with several seeds, and say what each of them gains.

    python tools/compare_classifiers.py --config-file configs/quickstart.yaml \\
        --classifiers linear context_aware --seeds 1 2 3 --output output/comparison --jobs 2

A classifier is linear, context_aware, semantic_spatial, prototype, learned_prototype,
explicit_class, gaussian_mixture, the registered name of your own, or a variant,
LABEL=CLASSIFIER,KEY=VALUE, such as no_kl=context_aware,LOSS_WEIGHT_KL=0.0. Each run is an ordinary
folder of train_net.py, OUTPUT/LABEL/seed_N. The same command continues what was interrupted and
keeps what is finished. --print-commands gives one command a run for a scheduler (a job array);
--gather then compares what is finished. --runs compares any runs of train_net.py.

It writes comparison.json, comparison.md and comparison.html.
"""

import argparse
import re
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

# A config key begins the overrides: lists such as --seeds 1 2 3 end there.
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)+|SEED|OUTPUT_DIR|VIS_PERIOD|CUDNN_BENCHMARK")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command's options; ``opts`` are the KEY VALUE pairs at its end."""
    start = next((i for i, word in enumerate(words) if _KEY.fullmatch(word)), len(words))
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --config-file FILE --output FOLDER [options] [KEY VALUE ...]",
    )
    parser.add_argument("--config-file", metavar="FILE", help="the base config of all runs")
    parser.add_argument(
        "--classifiers", nargs="+", metavar="NAME", default=["linear", "context_aware"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="of runs and results")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side")
    parser.add_argument("--baseline", metavar="NAME", help="(default: the first classifier)")
    parser.add_argument(
        "--dataset", default="", help="the first one in the results (default: of DATASETS.TEST)"
    )
    parser.add_argument("--num-resamples", type=int, default=4000, metavar="N")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the plan alone")
    what.add_argument("--print-commands", action="store_true", help="print one command a run")
    what.add_argument(
        "--gather", action="store_true", help="compare what is finished, train nothing"
    )
    what.add_argument("--runs", nargs="+", metavar="RUN", help="compare these folders of runs")
    arguments = parser.parse_args(words[:start])
    arguments.opts = list(words[start:])
    if arguments.num_resamples < 100:
        parser.error(f"--num-resamples {arguments.num_resamples}: expected at least 100")
    return arguments


def main() -> None:
    arguments = parse(sys.argv[1:])
    if arguments.runs:
        study = read_study(arguments.runs, arguments.baseline or "")
        write_results(study, arguments)
        return
    if not arguments.config_file:
        raise UserError("--config-file is missing: name the base config of all runs.")
    variants = [parse_variant(text) for text in arguments.classifiers]
    baseline = arguments.baseline or variants[0].label
    labels = [variant.label for variant in variants]
    if baseline not in labels:
        raise UserError(
            f"--baseline: '{baseline}' is none of {', '.join(labels)}.{suggest(baseline, labels)}"
        )
    runs = plan_runs(
        arguments.config_file, variants, arguments.seeds, arguments.output, arguments.opts
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
    """The runs, what is done of them, and how long the rest takes about."""
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
    """Of a finished run of the classifier, or else measured on random images."""
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
    """The runs of the plan that are finished; what is left out is said."""
    folders = {run.variant.label: [] for run in runs}
    for run in runs:
        if run_state(run).finished:
            folders[run.variant.label].append(run.folder)
        else:
            print(f"Left out, not finished: {run.folder}", file=sys.stderr)
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
