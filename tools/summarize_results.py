#!/usr/bin/env python
"""Print the mIoU of training runs as a Markdown table, with the mean over seeds.

    python tools/summarize_results.py output/camvid/*

A run is a folder that train_net.py wrote. Runs that differ in SEED and OUTPUT_DIR only are a group.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml
from tabulate import tabulate

from d2_ctxseg.errors import MissingFileError, run_command


def read_run(folder: Path) -> dict:
    """Name of the group, seed, training time and {(data set, task): mIoU} of one run."""
    for name in ("evaluation.json", "config.yaml", "log.txt"):
        if not (folder / name).is_file():
            raise MissingFileError(f"'{folder}' has no {name}: it is not a finished run.")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    results = json.loads((folder / "evaluation.json").read_text())
    # train_net.py enters the final model after the training; evaluations of others may follow.
    datasets = next(iter(results.values()))
    times = re.findall(r"Total training time: ([\d:]+)", (folder / "log.txt").read_text())
    seed = config.pop("SEED")
    config.pop("OUTPUT_DIR")
    return {
        "group": json.dumps(config, sort_keys=True),
        "label": config["MODEL"]["META_ARCHITECTURE"],
        "seed": seed,
        "time": times[-1] if times else "",
        "miou": {
            (dataset, task): metrics["mIoU"]
            for dataset, tasks in datasets.items()
            for task, metrics in tasks.items()
        },
    }


def make_table(runs: list[dict]) -> str:
    """A row for each run and, for groups of several, their mean and standard deviation."""
    columns = list(dict.fromkeys(key for run in runs for key in run["miou"]))
    groups = defaultdict(list)
    for run in runs:
        groups[run["group"]].append(run)
    rows = []
    for group in groups.values():
        for run in sorted(group, key=lambda run: run["seed"]):
            scores = [f"{run['miou'].get(column, np.nan):.2f}" for column in columns]
            rows.append([run["label"], run["seed"], run["time"], *scores])
        if len(group) > 1:
            scores = [[run["miou"].get(column, np.nan) for run in group] for column in columns]
            cells = [f"**{np.mean(s):.2f}** ± {np.std(s, ddof=1):.2f}" for s in scores]
            rows.append([group[0]["label"], "mean", "", *cells])
    headers = ["model", "seed", "training time", *(f"{name} {task}" for name, task in columns)]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    print(make_table([read_run(folder) for folder in parser.parse_args().folders]))


if __name__ == "__main__":
    run_command(main)
