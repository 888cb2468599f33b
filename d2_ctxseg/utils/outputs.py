"""Checks of a program's output paths, before the program does its work."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError

_NUM_EXAMPLES = 3


def check_output_file(path: str | os.PathLike, option: str) -> None:
    """Refuse an output file that cannot be written.

    Args:
        path: path of the file; its folder need not exist.
        option: the command-line option, for the message.

    Raises:
        UserError: the path is a folder, a parent is a file, or a folder is not writable.
    """
    if os.path.isdir(path):
        raise UserError(f"{option}: '{path}' is a folder, expected the name of a file.")
    _check_above(Path(path), option)


def check_output_folder(path: str | os.PathLike, option: str) -> None:
    """Refuse an output folder that cannot be written to; see :func:`check_output_file`."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{option}: '{path}' is a file, expected a folder.")
    _check_above(Path(path) / "file", option)


def make_output_folder(path: str | os.PathLike, option: str) -> None:
    """Create a folder and its parents if needed.

    Raises:
        UserError: it cannot be created.
    """
    check_output_folder(path, option)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option}: '{path}' cannot be created: {error.strerror}.") from error


def confirm_overwrite(paths: Sequence[Path], overwrite: bool) -> None:
    """Ask on the terminal before files that exist are overwritten.

    Args:
        paths: the files that a program is going to write.
        overwrite: the value of ``--overwrite``; True: do not ask.

    Raises:
        UserError: the user declines, or there is no terminal.
    """
    existing = [path for path in paths if path.exists()]
    if overwrite or not existing:
        return
    shown = ", ".join(map(str, existing[:_NUM_EXAMPLES]))
    if len(existing) > _NUM_EXAMPLES:
        shown += f" and {len(existing) - _NUM_EXAMPLES} more"
    what = f"{shown} already {'exists' if len(existing) == 1 else 'exist'}"
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
            "path."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option}: the folder '{folder}' is not writable. Choose another path.")
