"""Which commands there are, and how a command line becomes one of them with its arguments.

Nothing here and in ``parsers`` imports PyTorch: help and mistakes are answered at once.
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
        module: of the program below ``commands``, which has ``main(arguments)``; without a
            package's name also that of the file in ``parsers``.
        summary: what it does, for the list of commands.
        package: the folder of the program, where it is more than a file.
    """

    module: str
    summary: str
    package: str = ""

    def parser(self):
        """The parser of its arguments."""
        return import_module(f".parsers.{self.module}", __package__).get_parser()

    def load(self) -> Callable[[argparse.Namespace], None]:
        """The program; importing it registers everything in Detectron2."""
        from .. import register

        register()
        name = f"{self.package}.page" if self.package else self.module
        return import_module(f".{name}", __package__).main


COMMANDS = {
    "train": Command("train_net", "train a model and evaluate it"),
    "eval": Command("evaluate", "evaluate a trained model"),
    "calibrate": Command("calibrate", "fit the temperature that makes confidences true"),
    "demo": Command("demo", "draw predictions on images, a video or a webcam"),
    "app": Command("app", "a web page on this machine that shows what models see", "app"),
    "report": Command("report", "an HTML file about runs"),
    "compare": Command("compare_classifiers", "train classifiers with several seeds, and compare"),
    "check-dataset": Command("check_dataset", "read all images and labels, report problems"),
    "convert-labels": Command("convert_color_labels", "colours of labels into class indices"),
    "visualize-data": Command("visualize_data", "draw what training feeds the model"),
    "visualize": Command("visualize_classifier", "draw how a classifier comes to its predictions"),
    "analyze": Command("analyze_model", "parameters, multiply-adds, speed and memory of a model"),
    "export": Command("export_model", "a model as TorchScript, ONNX or a torch.export program"),
    "build-bank": Command("build_feature_bank", "a model of labelled pixels, without training"),
    "add-classes": Command("add_classes", "new classes for such or a prototype model, untrained"),
    "convert": Command("convert_checkpoint", "the authors' checkpoint into one of this project"),
    "strip": Command("strip_checkpoint", "a checkpoint without what only training needs"),
    "annotate": Command("annotate", "predictions as COCO, Label Studio, CVAT or FiftyOne"),
    "push": Command("push_to_hub", "a trained model onto the Hugging Face Hub, with a card"),
    "publish": Command("publish_model", "a finished training into a small model found by name"),
}


def read_command_line(command: str | None = None) -> tuple[Command, argparse.Namespace]:
    """The command and the arguments of this process's command line.

    Ends the program with help, or with exit code 2 and a message on a wrong command line.

    Args:
        command: the one that a script stands for; None if the first word names it.
    """
    words = sys.argv[1:]
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
        f"error: there is no command '{words[0]}'.{suggest(words[0], COMMANDS)} "
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
            "Semantic segmentation in Detectron2 with classifiers that know the image.",
            "",
            *lines,
            "",
            f"'{PROGRAM} COMMAND --help' says more about one of them.",
        ]
    )
