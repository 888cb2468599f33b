"""Say what the model of a config costs, before it is trained.

    python tools/analyze_model.py --config-file configs/camvid/fpn_resnet18_context_aware.yaml
    python tools/analyze_model.py --config-file CONFIG --tasks speed memory --repeats 50
    python tools/analyze_model.py --config-file CONFIG --json MODEL.SEM_SEG_HEAD.NUM_CLASSES 847

Tasks:
  parameters  of the whole model and its modules; prototypes are no parameters
  flops       multiply-adds of one image, a multiplication and an addition counted as one
  speed       time of one prediction on MODEL.DEVICE
  memory      peak of one prediction and of one training step on MODEL.DEVICE
  structure   the modules with their parameters

Images have the size of the training crop, or --input-size. Weights are random and none are fetched;
the dataset need not be on the disk. Sliding windows are switched off. With --json, standard output
is one JSON object and nothing else.
"""

import argparse
import contextlib
import json
import sys
import textwrap

from fvcore.nn import parameter_count_table
from tabulate import tabulate

from ..deployment import analysis
from ..engine import setup_config
from ..utils.arguments import integer_from
from ..utils.errors import UsageError, suggest

TASKS = ("parameters", "flops", "speed", "memory", "structure")
# These take seconds, and no memory to speak of, for a model of any size.
QUICK_TASKS = ("parameters", "flops")
PARTS = ("backbone", "head", "classifier", "auxiliary", "other")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(QUICK_TASKS),
        metavar="TASK",
        help=f"some of: {' '.join(TASKS)} (default: {' '.join(QUICK_TASKS)})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=integer_from(1),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images",
    )
    parser.add_argument(
        "--repeats", type=integer_from(1), default=20, help="predictions timed (default: 20)"
    )
    parser.add_argument(
        "--batch-size",
        type=integer_from(1),
        default=2,
        help="images of the training step (default: 2)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the config")
    arguments = parser.parse_args()
    check_tasks(arguments)
    return arguments


def check_tasks(arguments: argparse.Namespace) -> None:
    """Refuse unknown tasks; a word with capitals is no task but the first KEY."""
    words = arguments.tasks
    end = next((i for i, word in enumerate(words) if word != word.lower()), len(words))
    arguments.tasks, arguments.opts = words[:end], [*words[end:], *arguments.opts]
    for task in arguments.tasks:
        if task not in TASKS:
            raise UsageError(
                f"--tasks: there is no '{task}'; there are {', '.join(TASKS)}."
                f"{suggest(task, TASKS)}"
            )


def analyze(arguments: argparse.Namespace) -> dict:
    """The results by task, ready for JSON; ``tree`` is the structure as text."""
    cfg = setup_config(arguments.config_file, arguments.opts, for_inference=True)
    size = analysis.input_size(cfg)
    if arguments.input_size:
        size = analysis.InputSize(*arguments.input_size, "--input-size")
    result = {
        "config": arguments.config_file,
        "input_size": list(size[:2]),
        "input_size_from": size.source,
    }
    model = analysis.build_for_analysis(cfg)
    if "parameters" in arguments.tasks:
        result["parameters"] = analysis.count_parameters(model)
    if "flops" in arguments.tasks:
        counted = analysis.count_multiply_adds(model, size[:2])
        result["flops"] = counted.total
        result["flops_not_counted"] = counted.not_counted
    if "structure" in arguments.tasks:
        result["structure"] = analysis.structure(model)
        result["tree"] = parameter_count_table(model, max_depth=3)
    if {"speed", "memory"} & set(arguments.tasks):
        result["device"] = cfg.MODEL.DEVICE
        model = analysis.build_for_analysis(cfg, cfg.MODEL.DEVICE)
    if "speed" in arguments.tasks:
        repeats = arguments.repeats
        speed = analysis.measure_speed(model, size[:2], repeats=repeats)
        result["speed"] = {**speed, "repeats": repeats}
    if "memory" in arguments.tasks:
        batch_size = arguments.batch_size
        memory = analysis.measure_memory(cfg, model, size[:2], batch_size=batch_size)
        result["memory"] = {**memory, "training_batch_size": batch_size}
    return result


def as_text(result: dict) -> str:
    """The results for people: millions, billions, milliseconds, megabytes."""
    height, width = result["input_size"]
    lines = [f"{result['config']}, images of {height}x{width} ({result['input_size_from']})"]
    if "parameters" in result:
        lines += ["", parameter_table(result["parameters"])]
    if "flops" in result:
        lines += ["", f"multiply-adds of one image: {result['flops'] / 1e9:.2f} G"]
        lines += not_counted(list(result["flops_not_counted"]))
    if "speed" in result:
        speed = result["speed"]
        lines += [
            "",
            f"one prediction on '{result['device']}': {speed['milliseconds']:.1f} ms, "
            f"{speed['images_per_second']:.2f} images/s (median of {speed['repeats']}; "
            f"{speed['fastest']:.1f} to {speed['slowest']:.1f} ms)",
        ]
    if "memory" in result:
        memory = {
            name: f"{size / 2**20:.1f} MiB"
            for name, size in result["memory"].items()
            if name != "training_batch_size"
        }
        lines += [
            "",
            f"tensors in the memory of '{result['device']}': weights {memory['weights']}; "
            f"with them at most {memory['inference']} in a prediction of one image and "
            f"{memory['training_step']} in a training step of "
            f"{result['memory']['training_batch_size']}",
        ]
    if "tree" in result:
        lines += ["", result["tree"]]
    return "\n".join(lines)


def not_counted(operators: list[str]) -> list[str]:
    """What the multiply-adds leave out, in lines."""
    names = [name.removeprefix("aten.") for name in operators]
    lines = textwrap.wrap(
        f"Counted are convolutions, linear layers, matrix products and attention. Not counted: "
        f"{', '.join(names)}.",
        width=100,
        break_on_hyphens=False,
    )
    foreign = [name for name in operators if not name.startswith("aten.")]
    if foreign:
        lines.append(f"Of these, {', '.join(foreign)} may matter: they are not PyTorch's own.")
    return lines


def parameter_table(parameters: dict[str, int]) -> str:
    """Parameters of each module in millions."""
    shown = [name for name in PARTS if name != "other" or parameters[name]]
    rows = [[name, f"{parameters[name] / 1e6:.3f} M"] for name in [*shown, "total"]]
    rows += [
        ["of which frozen", f"{parameters['frozen'] / 1e6:.3f} M"],
        ["of which for training only", f"{parameters['training_only'] / 1e6:.3f} M"],
        ["left at test time", f"{parameters['test_time'] / 1e6:.3f} M"],
    ]
    return tabulate(rows, headers=["part", "parameters"], colalign=("left", "right"))


def main() -> None:
    arguments = parse_arguments()
    # Libraries print now and then.
    with contextlib.redirect_stdout(sys.stderr):
        result = analyze(arguments)
    if arguments.json:
        result.pop("tree", None)
        print(json.dumps(result, indent=2))
    else:
        print(as_text(result))
