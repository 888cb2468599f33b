"""Measure the cost of a config's model: parameters, multiply-adds, speed and memory."""

import argparse
import contextlib
import json
import sys
import textwrap

from fvcore.nn import parameter_count_table
from tabulate import tabulate

from ..deployment import analysis, loading
from .model_config import config_of

PARTS = ("backbone", "head", "classifier", "auxiliary", "other")


def analyze(arguments: argparse.Namespace) -> dict:
    """The results by task, as JSON values; ``tree`` is the structure as text."""
    cfg = config_of(arguments)
    size = analysis.input_size(cfg)
    if arguments.input_size:
        size = analysis.InputSize(*arguments.input_size, "--input-size")
    result = {
        "config": arguments.config_file or arguments.run or arguments.model,
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
    if "loader" in arguments.tasks:
        result["loader"] = measure_loader(cfg)
    return result


def measure_loader(cfg) -> dict[str, object]:
    """The times of data loading and of training, and the bottleneck."""
    image = loading.measure_loading(cfg)
    step_seconds = analysis.measure_training_step(cfg)
    setting = {
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "cores": loading.number_of_cores(),
        "device": cfg.MODEL.DEVICE,
    }
    return {
        "image_seconds": image.seconds,
        "slowest": image.slowest,
        "images": image.images,
        "step_seconds": step_seconds,
        **setting,
        **loading.compare_loading_with_training(image.seconds, step_seconds, **setting),
    }


def as_text(result: dict) -> str:
    """The results as text, in millions, billions, milliseconds and mebibytes."""
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
    if "loader" in result:
        lines += ["", loading.loading_as_text(result["loader"])]
    if "tree" in result:
        lines += ["", result["tree"]]
    return "\n".join(lines)


def not_counted(operators: list[str]) -> list[str]:
    """Lines that list the operators that the multiply-adds do not include."""
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
    """A table of the parameters of each module in millions."""
    shown = [name for name in PARTS if name != "other" or parameters[name]]
    rows = [[name, f"{parameters[name] / 1e6:.3f} M"] for name in [*shown, "total"]]
    rows += [
        ["of which frozen", f"{parameters['frozen'] / 1e6:.3f} M"],
        ["of which for training only", f"{parameters['training_only'] / 1e6:.3f} M"],
        ["left at test time", f"{parameters['test_time'] / 1e6:.3f} M"],
    ]
    return tabulate(rows, headers=["part", "parameters"], colalign=("left", "right"))


def main(arguments: argparse.Namespace) -> None:
    # Libraries may print to the standard output.
    with contextlib.redirect_stdout(sys.stderr):
        result = analyze(arguments)
    if arguments.json:
        result.pop("tree", None)
        print(json.dumps(result, indent=2))
    else:
        print(as_text(result))
