#!/usr/bin/env python
"""Write MODEL_ZOO.md: what every config costs, beside the papers' figures and our own results.

    python tools/make_model_zoo.py              # about two seconds a config and processor core
    python tools/make_model_zoo.py --check      # exit code 1 if MODEL_ZOO.md is not up to date

Parameters and multiply-adds are counted here, from the configs. The papers' figures, their
ablations and our results are in tools/model_zoo.yaml, whose top says what it holds. Parameter
counts agree within 1 % or the difference is explained there; otherwise it is an error.
"""

import argparse
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from d2_ctxseg.comparison import parse_variant
from d2_ctxseg.deployment.analysis import config_costs
from d2_ctxseg.utils.arguments import integer_from
from d2_ctxseg.utils.errors import MissingFileError, UserError, run_command, suggest
from d2_ctxseg.utils.files import atomic_write
from d2_ctxseg.utils.outputs import check_output_file
from d2_ctxseg.utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ("parameters", "flops", "mIoU", "mIoU_multi_scale")
ENTRY_KEYS = ("source", *FIGURES, "note", "trained_here")
RESULT_KEYS = ("mIoU", "mIoU_multi_scale", "command", "log")
ABLATION_KEYS = ("title", "source", "config", "note", "variants")
TOLERANCE = 0.01

# Folders of configs/ in the order of the page. Folders not named here come last.
DATASETS = {
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "coco_stuff_10k": "COCO-Stuff 10K",
    "coco_stuff_164k": "COCO-Stuff 164K",
    "pascal_context_59": "PASCAL-Context, 59 classes",
    "pascal_context_60": "PASCAL-Context, 60 classes",
    "ade20k_full_150": "ADE20K-Full, 150 classes",
    "ade20k_full_300": "ADE20K-Full, 300 classes",
    "ade20k_full_500": "ADE20K-Full, 500 classes",
    "ade20k_full_700": "ADE20K-Full, 700 classes",
    "ade20k_full": "ADE20K-Full, 847 classes",
    "camvid": "CamVid",
    "clothing_co_parsing": "Clothing Co-Parsing",
}
METHODS = {
    "linear": "Vanilla classifier",
    "context_aware": "Context-aware classifier",
    "semantic_spatial": "Semantic and spatial adaptive classifier",
    "prototype": "Prototypes",
    "learned_prototype": "Learned prototypes",
    "explicit_class": "Explicit class embeddings",
    "gaussian_mixture": "Gaussian mixtures",
    "feature_bank": "Feature bank",
}
# MODEL_METHOD.yaml, or MODEL_one_METHOD.yaml where a class has one prototype.
NAME = re.compile(rf"(?P<model>.+?)(_one)?_(?P<method>{'|'.join(METHODS)})\.yaml")
# Folders without datasets of their own, or with models of Detectron2's.
NOT_LEAVES = ("models", "upstream")
# The study of many classes (Zhou et al., CVPR 2022, Table 4).
LARGE_VOCABULARY_MODEL = "segformer_mit_b2"
LARGE_VOCABULARIES = ("ade20k", *(f"ade20k_full_{k}" for k in (300, 500, 700)), "ade20k_full")

INTRODUCTION = """\
# Model zoo

Every config of this project with the cost of its model and the figures that the papers published.
Generated from `configs/` and `tools/model_zoo.yaml` by

```bash
python tools/make_model_zoo.py
```

- **Parameters** are in millions, as the model is trained, including auxiliary heads; "test"
  counts those that are left at test time. Prototypes are buffers, not parameters. A footnote
  explains counts that differ from the published ones by more than 1 %.
- **Multiply-adds** are in billions, for one image of the given size, from pixels to logits:
  convolutions, linear layers, matrix products and attention. Most papers call one multiply-add a
  FLOP.
- **mIoU** is the published figure on the validation images, in per cent; "ms" with several scales
  and flipping; "vanilla" of the same model with the vanilla classifier.
- **here** is the mIoU of a model that was trained with this code. An empty cell: not trained.

[The cost of a model](docs/TRAINING.md#the-cost-of-a-model) on your machine, by module, in time
and in memory: `d2-ctxseg analyze`. Training: `d2-ctxseg train` ([how](docs/TRAINING.md)).

Published figures are from:

{sources}
"""

ABLATIONS = """\
## Ablations

Each table is a study of [`d2-ctxseg compare`](docs/COMPARISON.md): its command trains and
compares all variants. They can also be trained one by one, or on several machines
(`--print-commands`, `--gather`).
"""


def find_configs(folder: Path) -> dict[str, Path]:
    """The leaf configs by name, such as ``ade20k/fcn_r101_linear.yaml``, in the page's order."""
    configs = {
        f"{path.parent.name}/{path.name}": path
        for path in folder.glob("*/*.yaml")
        if path.parent.name not in NOT_LEAVES and not path.name.startswith("Base-")
    }
    if not configs:
        raise MissingFileError(f"--configs: there are no configs '{folder}/*/*.yaml'.")
    for name in configs:
        if method_of(name) is None:
            raise UserError(
                f"'{configs[name]}' names no classifier: expected the file name to end in "
                f"{', '.join(f'_{method}.yaml' for method in METHODS)}."
            )
    datasets = [*DATASETS, *sorted({name.split("/")[0] for name in configs} - set(DATASETS))]
    return dict(sorted(configs.items(), key=lambda x: (datasets.index(x[0].split("/")[0]), x[0])))


def method_of(name: str) -> str | None:
    """The key of METHODS that the config's name ends in."""
    match = NAME.fullmatch(name)
    return match["method"] if match else None


def vanilla_twin(name: str) -> str:
    """The name of the config that differs in having the vanilla classifier."""
    return f"{NAME.fullmatch(name)['model']}_linear.yaml"


def read_figures(path: Path, configs: dict[str, Path]) -> tuple[dict, dict, dict]:
    """The sources, the figures by config, and the ablations of model_zoo.yaml.

    They are checked, so that none is lost.
    """
    content = read_yaml(path) or {}
    check_keys(path, "at the top", content, ("sources", "configs", "ablations"))
    sources, entries = content.get("sources") or {}, content.get("configs") or {}
    check_keys(path, "configs", entries, configs)
    for name, entry in entries.items():
        check_keys(path, name, entry, ENTRY_KEYS)
        check_keys(path, f"{name}, trained_here", entry.get("trained_here") or {}, RESULT_KEYS)
        if "source" in entry:
            check_keys(path, f"{name}, source", {entry["source"]: None}, sources)
        for key in FIGURES:
            if not isinstance(entry.get(key), int | float | None):
                raise UserError(f"'{path}', {name}: {key} is '{entry[key]}', expected a number.")
    ablations = content.get("ablations") or {}
    for name, ablation in ablations.items():
        check_ablation(path, name, ablation, sources, configs)
    return sources, entries, ablations


def check_ablation(path: Path, name: str, ablation: dict, sources: dict, configs: dict) -> None:
    """Refuse an ablation that is not whole, or variants that the comparison tool would refuse."""
    check_keys(path, name, ablation, ABLATION_KEYS)
    missing = [key for key in ABLATION_KEYS if key not in ablation and key != "note"]
    if missing:
        raise UserError(f"'{path}', {name}: '{missing[0]}' is missing.")
    check_keys(path, f"{name}, source", {ablation["source"]: None}, sources)
    check_keys(path, f"{name}, config", {ablation["config"]: None}, configs)
    for variant in ablation["variants"]:
        parse_variant(variant)


def check_keys(path: Path, where: str, entry: dict, known) -> None:
    """Raise UserError if ``entry`` is not a mapping or has keys that are not ``known``."""
    if not isinstance(entry, dict):
        raise UserError(f"'{path}', {where}: expected a mapping, not '{entry}'.")
    for key in entry:
        if key not in known:
            raise UserError(f"'{path}', {where}: nothing is called '{key}'.{suggest(key, known)}")


def count_costs(configs: dict[str, Path], workers: int) -> dict[str, dict]:
    """The costs of all configs, in several processes."""
    with tqdm(total=len(configs), unit="config", desc="counting", file=sys.stderr) as progress:
        if workers == 1:
            costs = {}
            for name, path in configs.items():
                costs[name] = config_costs(str(path))
                progress.update()
            return costs
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as pool:
            jobs = {pool.submit(config_costs, str(path)): name for name, path in configs.items()}
            costs = {}
            try:
                for job in as_completed(jobs):
                    costs[jobs[job]] = job.result()
                    progress.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return costs


def explain_difference(parameters: dict, entry: dict) -> tuple[str, str]:
    """A config's footnote, and an unexplained difference of parameters; either may be ""."""
    paper, note = entry.get("parameters"), entry.get("note") or ""
    ours, test = (parameters[key] / 1e6 for key in ("total", "test_time"))
    if paper is None or abs(ours - paper) <= TOLERANCE * paper:
        return note, ""
    if abs(test - paper) <= TOLERANCE * paper and not note:
        return "The published count is that of the model at test time.", ""
    difference = f"{100 * (ours / paper - 1):+.1f} %"
    if note:
        return f"Parameters differ by {difference}: {note}", ""
    return "", (
        f"{ours:.2f} M parameters ({test:.2f} M at test time), published are {paper} M: "
        f"{difference}"
    )


def check_differences(costs: dict[str, dict], figures: dict[str, dict]) -> None:
    """Parameter counts agree within 1 % or the difference is explained."""
    problems = []
    for name, cost in costs.items():
        problem = explain_difference(cost["parameters"], figures.get(name, {}))[1]
        problems += [f"  {name}: {problem}"] if problem else []
    if problems:
        raise UserError(
            "These counts differ by more than 1 % without an explanation. Correct the config, or "
            "explain the difference in the entry's 'note':\n" + "\n".join(problems)
        )


class Page:
    """The text of MODEL_ZOO.md.

    Args:
        configs: paths of the configs by name.
        costs: by name, see config_costs.
        figures: entries of model_zoo.yaml by name; not every config has one.
        sources: names of the entries' sources.
        ablations: of model_zoo.yaml, by the name of the study.
        folder: where the page is; links are relative to it.
    """

    def __init__(
        self,
        configs: dict,
        costs: dict,
        figures: dict,
        sources: dict,
        ablations: dict,
        folder: Path,
    ):
        self.configs, self.costs, self.folder = configs, costs, folder
        self.figures, self.sources, self.ablations = figures, sources, ablations

    def text(self) -> str:
        """The whole page."""
        sources = "\n".join(f"- {name}: {text}" for name, text in self.sources.items())
        parts = [INTRODUCTION.format(sources=sources), *self.large_vocabulary()]
        for dataset in dict.fromkeys(name.split("/")[0] for name in self.configs):
            parts.append(f"## {DATASETS.get(dataset, dataset)}\n")
            for method, title in METHODS.items():
                names = [name for name in self.configs if name.startswith(f"{dataset}/")]
                names = [name for name in names if method_of(name) == method]
                if names:
                    parts += [f"### {title}\n", *self.table(names, vanilla=method == "linear")]
        return "\n".join([*parts, *self.ablation_studies()])

    def table(self, names: list[str], *, vanilla: bool) -> list[str]:
        """The configs of one dataset and method."""
        headers = ["config", "image", "parameters", "test", "published"]
        headers += ["multiply-adds", "published"]
        headers += ["mIoU", "ms"] + ([] if vanilla else ["vanilla", "ms"])
        headers += ["here", "ms", "source"]
        footnotes, rows = [], []
        for name in names:
            cost, entry = self.costs[name], self.figures.get(name, {})
            note = explain_difference(cost["parameters"], entry)[0]
            if note and note not in footnotes:
                footnotes.append(note)
            mark = f" <sup>{footnotes.index(note) + 1}</sup>" if note else ""
            millions = {key: f"{count / 1e6:.2f}" for key, count in cost["parameters"].items()}
            twin = self.figures.get(vanilla_twin(name), {})
            here = entry.get("trained_here") or {}
            rows.append(
                [self.link(name) + mark, "{}×{}".format(*cost["input_size"])]
                + [millions["total"], millions["test_time"]]
                + [cell(entry, "parameters"), f"{cost['flops'] / 1e9:.1f}"]
                + [cell(entry, key) for key in FIGURES[1:]]
                + ([] if vanilla else [cell(twin, key) for key in FIGURES[2:]])
                + [cell(here, "mIoU"), cell(here, "mIoU_multi_scale"), cell(entry, "source")]
            )
        lines = [markdown_table(headers, rows), ""]
        lines += [f"{i}. {note}" for i, note in enumerate(footnotes, 1)]
        lines += [""] if footnotes else []
        return [*lines, *self.commands(names)]

    def commands(self, names: list[str]) -> list[str]:
        """How the models that were trained here were trained."""
        lines = []
        for name in names:
            here = self.figures.get(name, {}).get("trained_here") or {}
            log = f" ([log]({here['log']}))" if here.get("log") else ""
            if here.get("command"):
                lines += [f"{self.link(name)}, trained here{log}: `{here['command']}`", ""]
        return lines

    def large_vocabulary(self) -> list[str]:
        """Parameters against the number of classes, of the classifiers of Table 4."""
        columns = {
            "linear": "vanilla",
            "learned_prototype": "10 learned prototypes",
            "prototype": "10 prototypes",
        }
        rows = []
        for dataset in LARGE_VOCABULARIES:
            names = {m: f"{dataset}/{LARGE_VOCABULARY_MODEL}_{m}.yaml" for m in columns}
            if not all(name in self.costs for name in names.values()):
                continue
            row = [self.costs[names["linear"]]["num_classes"]]
            for name in names.values():
                count = self.costs[name]["parameters"]["total"]
                row += [f"{count / 1e6:.2f}", cell(self.figures.get(name, {}), FIGURES[0])]
            rows.append([*row, f"{self.costs[names['prototype']]['prototypes'] / 1e6:.2f}"])
        if not rows:
            return []
        headers = [
            "classes",
            *(text for title in columns.values() for text in (title, "published")),
        ]
        return [
            "## Parameters against the number of classes\n",
            "The vanilla classifier has one weight vector per class, learned prototypes have "
            "several.\nPrototypes are buffers without gradient or optimizer state; of their "
            "classifier only the norm over\nthe scores grows, by two parameters per class. In "
            "millions, of "
            f"{LARGE_VOCABULARY_MODEL}:\n",
            markdown_table([*headers, "numbers in prototypes"], rows),
            "",
        ]

    def ablation_studies(self) -> list[str]:
        """What the papers vary, each table with the command that trains and compares it."""
        parts = [ABLATIONS] if self.ablations else []
        for name, ablation in self.ablations.items():
            rows = [[f"`{v}`", "" if f is None else f] for v, f in ablation["variants"].items()]
            note = [f"{ablation['note']}\n"] if ablation.get("note") else []
            config = self.path(ablation["config"])
            command = [
                f"d2-ctxseg compare --config-file {config}",
                f"--seeds 1 --output output/ablations/{name} --classifiers",
                *ablation["variants"],
            ]
            parts += [
                f"### {ablation['title']}\n",
                *note,
                markdown_table(["variant", f"mIoU ({ablation['source']})"], rows),
                "\n```bash",
                " \\\n    ".join(command),
                "```\n",
            ]
        return parts

    def link(self, name: str) -> str:
        """A link to a config."""
        return f"[{Path(name).stem}]({self.path(name)})"

    def path(self, name: str) -> str:
        """A config's path as seen from the page."""
        return Path(os.path.relpath(self.configs[name], self.folder)).as_posix()


def markdown_table(headers: list[str], rows: list[list]) -> str:
    """A table without padding, so that a row changes only where its figures do."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def cell(entry: dict, key: str) -> str:
    """A figure as it was published, or nothing."""
    value = entry.get(key)
    return "" if value is None else str(value)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs", metavar="FOLDER")
    parser.add_argument("--figures", type=Path, default=ROOT / "tools" / "model_zoo.yaml")
    parser.add_argument("--output", type=Path, default=ROOT / "MODEL_ZOO.md", metavar="FILE")
    parser.add_argument(
        "--workers",
        type=integer_from(1),
        default=min(os.cpu_count() or 1, 8),
        help="number of processes",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    check_output_file(arguments.output, "--output")
    configs = find_configs(arguments.configs)
    sources, figures, ablations = read_figures(arguments.figures, configs)
    costs = count_costs(configs, arguments.workers)
    check_differences(costs, figures)
    folder = arguments.output.resolve().parent
    text = Page(configs, costs, figures, sources, ablations, folder).text()
    if not arguments.check:
        with atomic_write(arguments.output) as file:
            file.write(text)
        print(f"Wrote {len(configs)} configs to '{arguments.output}'.")
    elif not arguments.output.is_file() or arguments.output.read_text(encoding="utf-8") != text:
        raise UserError(
            f"'{arguments.output}' is not up to date. Run python tools/make_model_zoo.py."
        )


if __name__ == "__main__":
    run_command(main)
