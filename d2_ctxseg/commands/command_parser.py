"""The argument parser of all commands: model options, config overrides, error messages."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from ..utils.errors import suggest

# The first config key begins the overrides and ends lists such as --seeds 1 2 3.
_KEY = re.compile(
    r"(MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST|GLOBAL)\.[A-Z0-9_.]+"
    r"|SEED|OUTPUT_DIR|VERSION|VIS_PERIOD|CUDNN_BENCHMARK|FLOAT32_PRECISION|IMPORTS"
)

_OVERRIDES = "[KEY VALUE ...]"


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of a command, with KEY VALUE pairs at the end as ``opts``.

    ``--opts`` before the pairs is optional. For an unknown option, the error suggests the nearest.

    Args:
        description: the help text.
        has_config: whether the command reads a config, so that KEY VALUE pairs are accepted.
    """

    def __init__(self, description: str, *, has_config: bool = True):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.has_config = has_config
        if has_config:
            self.epilog = (
                "KEY VALUE pairs at the end override the config, such as MODEL.DEVICE cpu.\n"
                "--opts before them is optional."
            )

    def add_model(
        self, *, named: bool = True, runs: bool = True, weights: bool = True, required: bool = True
    ) -> None:
        """Add ``--config-file``, ``--run``, ``--model``, ``--weights`` and ``--import``.

        Args:
            named: whether the command accepts ``--model``.
            runs: whether it accepts ``--run``.
            weights: whether it reads weights.
            required: whether one of the first three options is required.
        """
        source = self.add_mutually_exclusive_group(required=required)
        source.add_argument(
            "--config-file", metavar="FILE", help="config: a file, or a name below configs/"
        )
        if runs:
            what = "config.yaml and weights" if weights else "config.yaml"
            source.add_argument(
                "--run", metavar="FOLDER", help=f"{what} of a training's OUTPUT_DIR"
            )
        if named:
            source.add_argument(
                "--model",
                metavar="NAME",
                help="a trained model: a name of the model zoo, "
                "a checkpoint, or USER/MODEL on the Hugging Face Hub",
            )
        if weights:
            self.add_argument("--weights", metavar="FILE", help="a checkpoint (MODEL.WEIGHTS)")
        self.add_import()

    def add_runs(self, text: str) -> None:
        """Add the folders of one or more runs, as ``runs``: positional, or after ``--run``."""
        self.add_argument("runs", nargs="*", metavar="RUN", help=text)
        self.add_argument(
            "--run", nargs="+", dest="runs_by_option", default=[], help=argparse.SUPPRESS
        )

    def add_import(self) -> None:
        """Add ``--import``."""
        self.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="FILE",
            help="a Python file or module of yours to import first (IMPORTS); may be repeated",
        )

    def format_usage(self) -> str:
        return self._with_overrides(super().format_usage())

    def format_help(self) -> str:
        head, gap, rest = super().format_help().partition("\n\n")
        return self._with_overrides(head + gap) + rest

    def _with_overrides(self, usage: str) -> str:
        body = usage.rstrip("\n")
        end = usage[len(body) :]
        is_complete = body.endswith(_OVERRIDES) or not self.has_config
        return usage if is_complete else f"{body} {_OVERRIDES}{end}"

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        """The arguments; ``opts`` holds the KEY VALUE words of a command that has a config."""
        words, opts = self._split([os.fspath(word) for word in args] if args is not None else None)
        self._refuse_unknown_options(words)
        self._refuse_bare_folder(words)
        arguments, unknown = self.parse_known_intermixed_args(words, namespace)
        if self.has_config:
            arguments.opts = [*unknown, *opts]  # the config checks the keys
        elif unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        if "runs_by_option" in arguments:
            arguments.runs = [*arguments.runs, *arguments.runs_by_option]
            if not arguments.runs:
                self.error("the following arguments are required: RUN, the folder of a run")
        return arguments

    def _split(self, words: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """The words before the overrides, and the overrides."""
        words = list(sys.argv[1:] if words is None else words)
        if not self.has_config:
            return words, []
        start = next((i for i in range(len(words)) if self._begins_overrides(words, i)), len(words))
        opts = [word for word in words[start:] if word != "--opts"]
        return words[:start], opts

    def _begins_overrides(self, words: list[str], index: int) -> bool:
        if words[index] == "--opts":
            return True
        if not _KEY.fullmatch(words[index]) or os.path.exists(words[index]):
            return False
        option = self._option_string_actions.get(words[index - 1]) if index else None
        return option is None or option.nargs is not None  # a flag, or a list, which may end here

    def _refuse_bare_folder(self, words: Sequence[str]) -> None:
        """``report`` takes folders of runs without an option; other commands say how they do."""
        has_positionals = any(not action.option_strings for action in self._actions)
        if "--run" not in self._option_string_actions or has_positionals:
            return
        if words and not words[0].startswith("-") and os.path.isdir(words[0]):
            self.error(f"'{words[0]}' is a folder: did you mean --run {words[0]}?")

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Report unknown options before missing ones, because they may be misspellings of them."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        options = [word.split("=")[0] for word in words if word.startswith("--") and word != "--"]
        unknown = [word for word in options if not any(name.startswith(word) for name in known)]
        if unknown:
            nearest = "".join(suggest(word, known) for word in unknown)
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{nearest}")
