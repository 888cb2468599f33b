"""Where a program is to write, looked at before it does the work."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError

_NUM_EXAMPLES = 3


def check_output_file(path: str | os.PathLike, option: str) -> None:
    """Refuse a file that cannot be written because of what is at its place or above it.

    Args:
        path: of the file; its folder need not be there yet.
        option: what the user gave it with, for the message.

    Raises:
        UserError: a folder has its name, something above it is a file, or may not be written to.
    """
    if os.path.isdir(path):
        raise UserError(f"{option}: '{path}' is a folder, expected the name of a file.")
    _check_above(Path(path), option)


def check_output_folder(path: str | os.PathLike, option: str) -> None:
    """As :func:`check_output_file`, of a folder that is there or can be made."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{option}: '{path}' is a file, expected a folder.")
    _check_above(Path(path) / "file", option)


def make_output_folder(path: str | os.PathLike, option: str) -> None:
    """Make a folder, and those above it, where they are not there; raises UserError."""
    check_output_folder(path, option)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option}: '{path}' cannot be made: {error.strerror}.") from error


def confirm_overwrite(paths: Sequence[Path], overwrite: bool) -> None:
    """Ask on the terminal before files that exist are overwritten.

    Args:
        paths: the files that a program is going to write.
        overwrite: what ``--overwrite`` says; True asks nothing.

    Raises:
        UserError: the answer is no, or there is no terminal to ask on.
    """
    existing = [path for path in paths if path.exists()]
    if overwrite or not existing:
        return
    shown = ", ".join(map(str, existing[:_NUM_EXAMPLES]))
    if len(existing) > _NUM_EXAMPLES:
        shown += f" and {len(existing) - _NUM_EXAMPLES} more"
    what = f"{shown} {'exists' if len(existing) == 1 else 'exist'} already"
    if not (sys.stdin and sys.stdin.isatty()):
        raise UserError(
            f"{what}; nothing was overwritten. Choose another --output, or set --overwrite (-y)."
        )
    try:
        answer = input(f"{what}. Overwrite? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was overwritten.")


def _check_above(path: Path, option: str) -> None:
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise UserError(
            f"{option}: '{folder}' is a file, so nothing can be written below it. Choose another "
            "place."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{option}: the folder '{folder}' may not be written to. Choose another place."
        )
