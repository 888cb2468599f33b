#!/usr/bin/env python
"""Compare time and memory of the classifiers.

    python benchmarks/classifiers.py
    python benchmarks/classifiers.py --device cpu --threads 2 --repeats 5 --json times.json
    python benchmarks/classifiers.py --only prototypes ContextAwareClassifier Convolution

Every repeat runs every candidate once in random order, so that other load on the machine affects
all candidates equally. The tables show medians. "Test" is the forward pass without gradients.
"Training" is forward pass, losses and backward pass. Ratios are to the first row of a table (for
the classifiers the plain 1x1 convolution) and to the class-by-class implementation of the same
method (benchmarks/reference.py). A ratio below 1 is faster.

Memory is the peak of PyTorch's allocator during one call, less parameters and inputs: outputs,
activations, gradients and temporary tensors. On a GPU the allocator counts it. On the CPU it is the
sum of the allocations and releases that torch.profiler records. Unlike the peak size of the
process, it has the same meaning on both devices, is reproducible, and excludes the memory of
imports and earlier calls. It also excludes the workspace of libraries such as oneDNN and cuDNN.

The loops of the class-by-class implementations skip classes that do not occur in the labels, so
their time depends on --classes-present.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from measurement import Task, describe_environment, measure, usable_device
from reference import (
    ClassByClassContextAware,
    ClassByClassGaussianMixture,
    ClassByClassPrototype,
    Convolution,
)
from tabulate import tabulate
from torch import Tensor, nn

from d2_ctxseg import add_ctxseg_config  # importing it makes detectron2 importable
from d2_ctxseg.classifiers import (
    ContextAwareClassifier,
    ExplicitClassClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from d2_ctxseg.modeling import ECEHead, SMPDecoderHead
from d2_ctxseg.utils.errors import UserError, run_command, suggest
from d2_ctxseg.utils.files import write_json
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

IGNORE = 255


@dataclass(frozen=True)
class Size:
    """The sizes of models and inputs. A side is the side of a square, in pixels."""

    batch: int
    num_classes: int
    classes_present: int
    label_side: int
    channels: int
    prototype_channels: int
    encoder: str
    decoder_channels: int
    stage_channels: tuple[int, ...]
    ece_channels: int

    @property
    def feature_side(self) -> int:
        """Side of the features, which have stride 4."""
        return self.label_side // 4


# The stages have the channels of Swin-B, as in the ECENet paper.
SIZES = {
    "paper": Size(
        batch=2,
        num_classes=150,
        classes_present=20,
        label_side=512,
        channels=512,
        prototype_channels=256,
        encoder="tu-swin_tiny_patch4_window7_224",
        decoder_channels=512,
        stage_channels=(128, 256, 512, 1024),
        ece_channels=256,
    ),
    "small": Size(
        batch=2,
        num_classes=7,
        classes_present=4,
        label_side=64,
        channels=16,
        prototype_channels=16,
        encoder="resnet18",
        decoder_channels=32,
        stage_channels=(16, 32, 64, 128),
        ece_channels=32,
    ),
}


class Candidate(NamedTuple):
    """A module with its calls; ``training`` is None if only test time is measured."""

    module: nn.Module
    test: Callable[[], object]
    training: Callable[[], object] | None = None


@dataclass(frozen=True)
class Table:
    """Candidates with the same inputs; the first one is the baseline of the ratios."""

    title: str
    make_inputs: Callable[[Size, torch.device], object]
    builders: dict[str, Callable[[Size, object], Candidate]]
    references: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------------------- candidates


def pixel_inputs(size: Size, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (B, C, h, w) and blockwise labels (B, H, W); one block in sixteen is ignored."""
    side = size.feature_side
    features = torch.randn(size.batch, channels, side, side).to(device)
    classes = torch.randperm(size.num_classes)[: size.classes_present]
    shape = (size.batch, 16, 16)
    blocks = classes[torch.randint(len(classes), shape)]
    blocks[torch.rand(shape) < 1 / 16] = IGNORE
    repeats = size.label_side // 16
    labels = blocks.repeat_interleave(repeats, dim=1).repeat_interleave(repeats, dim=2)
    return features, labels.to(device)


def classifier(cls: type[nn.Module]) -> Callable[[Size, object], Candidate]:
    """A function that builds a classifier with its default arguments."""

    def build(size: Size, inputs: tuple[Tensor, Tensor]) -> Candidate:
        features, labels = inputs
        module = cls(features.shape[1], size.num_classes, ignore_label=IGNORE).to(features.device)

        def train():
            # A leaf that requires gradients, as a segmentor backpropagates into its head.
            leaf = features.detach().requires_grad_()
            sum(module.losses(leaf, labels).values()).backward()

        return Candidate(module, lambda: module(features), train)

    return build


def image_inputs(size: Size, device: torch.device) -> list[dict[str, Tensor]]:
    """One image in the input format of Detectron2's models."""
    image = torch.randint(0, 256, (3, size.label_side, size.label_side), dtype=torch.uint8)
    return [{"image": image.to(device)}]


def segmentor(meta_architecture: str) -> Callable[[Size, object], Candidate]:
    """A function that builds a complete UPerNet."""

    def build(size: Size, inputs: list[dict[str, Tensor]]) -> Candidate:
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        options = ["decoder_channels", size.decoder_channels]
        cfg.merge_from_list(
            ["MODEL.META_ARCHITECTURE", meta_architecture]
            + ["MODEL.DEVICE", str(inputs[0]["image"].device)]
            + ["MODEL.BACKBONE.NAME", "EncoderBackbone", "MODEL.BACKBONE.FREEZE_AT", 0]
            + ["MODEL.ENCODER.NAME", size.encoder]
            + ["MODEL.ENCODER.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NAME", "SMPDecoderHead"]
            + ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", size.num_classes]
            + ["MODEL.SEM_SEG_HEAD.DECODER.NAME", "UPerNet"]
            + ["MODEL.SEM_SEG_HEAD.DECODER.OPTIONS", options]
        )
        module = build_model(cfg)
        return Candidate(module, lambda: module(inputs))

    return build


def stage_inputs(size: Size, device: torch.device) -> dict[str, Tensor]:
    """Name -> image or feature map at strides 2 to 32, of one image."""
    channels = (3, 0, *size.stage_channels)
    sides = [size.label_side // 2**i for i in range(6)]
    return {
        f"res{i}": torch.randn(1, c, side, side).to(device)
        for i, (c, side) in enumerate(zip(channels, sides))
    }


def upernet_head(size: Size, inputs: dict[str, Tensor]) -> Candidate:
    """UPerNet's head with its 1x1 convolution, with logits at stride 4."""
    shapes = {
        name: ShapeSpec(channels=x.shape[1], stride=size.label_side // x.shape[2])
        for name, x in inputs.items()
    }
    module = SMPDecoderHead(
        shapes,
        decoder="UPerNet",
        decoder_options={"decoder_channels": size.decoder_channels},
        num_classes=size.num_classes,
    ).to(inputs["res2"].device)
    return Candidate(module, lambda: module.layers(inputs))


def ece_head(size: Size, inputs: dict[str, Tensor]) -> Candidate:
    """ECENet's head, with logits at stride 4."""
    module = ECEHead(
        in_channels=size.stage_channels, num_classes=size.num_classes, channels=size.ece_channels
    ).to(inputs["res2"].device)
    stages = [inputs[f"res{i}"] for i in range(2, 6)]
    return Candidate(module, lambda: module.predict(stages))


_SETTING = (
    "{num_classes} classes, batch {batch}, features {feature_side} x {feature_side}, labels "
    "{label_side} x {label_side} with {classes_present} classes"
)
TABLES = {
    "classifiers": Table(
        "Classifiers on {channels} channels: " + _SETTING,
        lambda size, device: pixel_inputs(size, size.channels, device),
        {
            "Convolution": classifier(Convolution),
            "LinearClassifier": classifier(LinearClassifier),
            "ContextAwareClassifier": classifier(ContextAwareClassifier),
            "ClassByClassContextAware": classifier(ClassByClassContextAware),
            "SemanticSpatialClassifier": classifier(SemanticSpatialClassifier),
            "ExplicitClassClassifier": classifier(ExplicitClassClassifier),
        },
        {"ContextAwareClassifier": "ClassByClassContextAware"},
    ),
    "prototypes": Table(
        "Prototypes on {prototype_channels} channels: " + _SETTING,
        lambda size, device: pixel_inputs(size, size.prototype_channels, device),
        {
            "Convolution": classifier(Convolution),
            "PrototypeClassifier": classifier(PrototypeClassifier),
            "ClassByClassPrototype": classifier(ClassByClassPrototype),
            "LearnedPrototypeClassifier": classifier(LearnedPrototypeClassifier),
        },
        {"PrototypeClassifier": "ClassByClassPrototype"},
    ),
    "mixtures": Table(
        "Gaussian mixtures on {channels} channels: " + _SETTING,
        lambda size, device: pixel_inputs(size, size.channels, device),
        {
            "Convolution": classifier(Convolution),
            "GaussianMixtureClassifier": classifier(GaussianMixtureClassifier),
            "ClassByClassGaussianMixture": classifier(ClassByClassGaussianMixture),
        },
        {"GaussianMixtureClassifier": "ClassByClassGaussianMixture"},
    ),
    "segmentors": Table(
        "Whole segmentors: UPerNet of {decoder_channels} channels on {encoder}, one image "
        "{label_side} x {label_side}",
        image_inputs,
        {
            "LinearSegmentor": segmentor("LinearSegmentor"),
            "ContextAwareSegmentor": segmentor("ContextAwareSegmentor"),
        },
    ),
    "heads": Table(
        "Heads to logits at stride 4: UPerNet of {decoder_channels} channels, ECENet of "
        "{ece_channels}, on stages of {stage_channels} channels of one image "
        "{label_side} x {label_side}",
        stage_inputs,
        {"UPerNet": upernet_head, "ECEHead": ece_head},
    ),
}


def build_tasks(size: Size, device: torch.device, only: list[str]) -> list[Task]:
    """The calls to measure: those of the tables and candidates in ``only``, or all if empty."""
    known = {*TABLES, *(name for table in TABLES.values() for name in table.builders)}
    for name in only:
        if name not in known:
            raise UserError(
                f"--only: unknown name '{name}', expected one of {', '.join(sorted(known))}."
                f"{suggest(name, known)}"
            )
    tasks = []
    for key, table in TABLES.items():
        names = [n for n in table.builders if not only or key in only or n in only]
        inputs = table.make_inputs(size, device) if names else None
        for name in names:
            candidate = table.builders[name](size, inputs)
            for phase in ("test", "training"):
                if call := getattr(candidate, phase):
                    tasks.append(Task(key, name, phase, candidate.module, call))
    return tasks


# --------------------------------------------------------------------------------------- report


def make_table(key: str, tasks: list[Task]) -> str:
    """The tasks of one table as GitHub Markdown; "–" where a reference is missing."""
    table = TABLES[key]
    tasks = {(task.phase, task.name): task for task in tasks if task.table == key}
    baseline = next(iter(table.builders))
    headers, columns = [], []
    names = list(dict.fromkeys(name for _, name in tasks))
    for phase in dict.fromkeys(phase for phase, _ in tasks):
        headers += [f"{phase}, ms", f"× {baseline}"]
        seconds = {n: statistics.median(tasks[phase, n].seconds) for n in names}
        columns.append([f"{1000 * seconds[n]:.1f}" for n in names])
        columns.append([_ratio(seconds, n, baseline) for n in names])
        if table.references:
            headers.append("× class by class")
            columns.append([_ratio(seconds, n, table.references.get(n)) for n in names])
        headers.append("MiB")
        columns.append([f"{tasks[phase, n].memory / 2**20:.1f}" for n in names])
    alignment = ["left"] + ["right"] * len(headers)
    return tabulate(
        list(zip(names, *columns)),
        headers=["", *headers],
        tablefmt="github",
        disable_numparse=True,
        colalign=alignment,
    )


def _ratio(seconds: dict[str, float], name: str, other: str | None) -> str:
    return f"{seconds[name] / seconds[other]:.2f}" if other in seconds else "–"


def make_title(key: str, size: Size) -> str:
    """The title of a table with its sizes."""
    return TABLES[key].title.format(**asdict(size), feature_side=size.feature_side)


def as_json(size: Size, environment: dict, tasks: list[Task]) -> dict:
    """All results, including every measured time."""
    keys = ("table", "name", "phase", "seconds", "memory")
    calls = [
        {key: getattr(task, key) for key in keys}
        | {"median_seconds": statistics.median(task.seconds)}
        for task in tasks
    ]
    return {"environment": environment, "size": asdict(size), "calls": calls}


# ---------------------------------------------------------------------------------- command line


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--threads", type=int, help="CPU threads of PyTorch (default: PyTorch's own number)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="tables and candidates to measure"
    )
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--classes-present", type=int, help="number of classes in the labels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    device, size = usable_device(arguments.device), SIZES[arguments.size]
    for option in ("repeats", "threads", "classes_present"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} is {value}, must be at least 1.")
    if arguments.classes_present is not None:
        if arguments.classes_present > size.num_classes:
            raise UserError(
                f"--classes-present is {arguments.classes_present}, but there are "
                f"{size.num_classes} classes at this size."
            )
        size = replace(size, classes_present=arguments.classes_present)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tasks = build_tasks(size, device, arguments.only)
    measure(tasks, arguments.repeats, device)
    environment = describe_environment(device) | {"repeats": arguments.repeats}
    print("\n".join(f"- {key}: {value}" for key, value in environment.items()))
    for key in dict.fromkeys(task.table for task in tasks):
        print(f"\n{make_title(key, size)}\n\n{make_table(key, tasks)}")
    if arguments.json:
        write_json(arguments.json, as_json(size, environment, tasks))


if __name__ == "__main__":
    run_command(main)
