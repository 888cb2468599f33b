"""The list of commands, and the parsing of a command line.

This module and ``parsers`` do not import PyTorch, so that help and errors appear without delay.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..utils.errors import suggest

PROGRAM = "d2-ctxseg"


@dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        module: the module in ``parsers``, and in ``commands`` unless ``package`` is set. The latter
            has a function ``main(arguments)``.
        summary: a description for the list of commands.
        package: the package in ``commands`` of a command with several files, or "".
    """

    module: str
    summary: str
    package: str = ""

    def parser(self):
        """The parser of the command's arguments."""
        return import_module(f".parsers.{self.module}", __package__).get_parser()

    def load(self) -> Callable[[argparse.Namespace], None]:
        """Import the command's function ``main``, and register everything in Detectron2."""
        from .. import register

        register()
        name = f"{self.package}.page" if self.package else self.module
        return import_module(f".{name}", __package__).main


COMMANDS = {
    "train": Command("train_net", "train a model and evaluate it"),
    "eval": Command("evaluate", "evaluate a trained model"),
    "calibrate": Command("calibrate", "fit the temperature that calibrates confidences"),
    "demo": Command("demo", "draw predictions on images, a video or a webcam"),
    "app": Command("app", "show predictions on a web page on this machine", "app"),
    "report": Command("report", "write an HTML report about runs"),
    "compare": Command("compare_classifiers", "train classifiers with several seeds, and compare"),
    "prepare": Command("prepare", "prepare a dataset from its official archives"),
    "check-dataset": Command("check_dataset", "read all images and labels, report problems"),
    "convert-labels": Command("convert_color_labels", "convert label colours to class indices"),
    "visualize-data": Command("visualize_data", "draw augmented training images and labels"),
    "visualize": Command("visualize_classifier", "draw the internals of a classifier"),
    "analyze": Command("analyze_model", "measure parameters, multiply-adds, speed and memory"),
    "export": Command("export_model", "export a model to ONNX, TorchScript or torch.export"),
    "build-bank": Command("build_feature_bank", "fill a feature bank, without training"),
    "add-classes": Command("add_classes", "add classes to a prototype or bank model, untrained"),
    "convert": Command("convert_checkpoint", "convert a checkpoint of the authors' code"),
    "strip": Command("strip_checkpoint", "remove what only training needs from a checkpoint"),
    "annotate": Command("annotate", "write predictions for COCO, Label Studio, CVAT, FiftyOne"),
    "push": Command("push_to_hub", "upload a model to the Hugging Face Hub"),
    "publish": Command("publish_model", "publish a trained model in the model zoo"),
}


def read_command_line(
    command: str | None = None, *first: str
) -> tuple[Command, argparse.Namespace]:
    """The command and the arguments of this process's command line.

    For an invalid command line, the program ends with a message and exit code 2.

    Args:
        command: the command of a script; None: the first word names the command.
        first: words that the script puts before those of the command line.
    """
    words = [*first, *sys.argv[1:]]
    prog = None  # the script's name
    if command is None:
        command, words = _command_of(words), words[1:]
        prog = f"{PROGRAM} {command}"
    parser = COMMANDS[command].parser()
    if prog:
        parser.prog = prog
    return COMMANDS[command], parser.parse_args(words)


def _command_of(words: list[str]) -> str:
    if words and words[0] in COMMANDS:
        return words[0]
    if words and words[0] == "--version":
        from .. import __version__

        print(f"{PROGRAM} {__version__}")
        sys.exit(0)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0 if words else 2)
    print(
        f"error: unknown command '{words[0]}'.{suggest(words[0], COMMANDS)} "
        f"'{PROGRAM} --help' lists the commands.",
        file=sys.stderr,
    )
    sys.exit(2)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [arguments]",
            "",
            "Semantic segmentation in Detectron2 with context-aware classifiers.",
            "",
            *lines,
            "",
            f"'{PROGRAM} COMMAND --help' describes a command.",
        ]
    )
