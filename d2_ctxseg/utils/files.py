"""Atomic writing of files, and errors of writing."""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

_PART = re.compile(r"\..*\.(\d+)\.part")
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk.",
    errno.EDQUOT: "Free some of your quota.",
    errno.ENOENT: "Its folder no longer exists; create it, or choose another.",
    errno.EROFS: "Choose a folder on a disk that can be written to.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
}


class WriteError(UserError, OSError):
    """A file cannot be written: the disk is full or read-only, or the folder does not exist."""


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w"):
    """Open a file that appears at ``path`` only once it is complete.

    It is written under a temporary name in the same folder (created if needed), flushed to the
    disk, and renamed. If writing fails, an existing file at ``path`` is unchanged.

    Args:
        path: path of the file.
        mode: ``"w"`` (text, UTF-8; surrogates are written as ``\\udc80``) or ``"wb"``.

    Raises:
        WriteError: the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    options = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(part, mode, **options)  # noqa: SIM115 -- closed below
    try:
        # Errors in the block that name a file concern files that it reads.
        with write_errors(path, only_unnamed=True), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with write_errors(path):
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


@contextmanager
def write_errors(path: str | os.PathLike, *, only_unnamed: bool = False) -> Iterator[None]:
    """Turn errors of the operating system in this block into a WriteError for ``path``.

    Args:
        path: the file or folder that the block writes.
        only_unnamed: leave errors that name a file unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError instead of the error of the file.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, UserError) or not isinstance(cause, OSError) or cause.errno is None:
            raise
        if only_unnamed and cause.filename is not None:
            raise
        remedy = _REMEDIES.get(cause.errno, "")
        raise WriteError(
            f"'{path}' cannot be written: {os.strerror(cause.errno)}. {remedy}".rstrip()
        ) from error


def remove_unfinished(folder: str | os.PathLike) -> list[Path]:
    """Delete unfinished files of :func:`atomic_write` below ``folder``, left by killed processes.

    Returns:
        The deleted files.
    """
    unfinished = [
        path
        for path in Path(folder).rglob(".*.part")
        if (match := _PART.fullmatch(path.name)) and not _is_alive(int(match[1]))
    ]
    for path in unfinished:
        path.unlink(missing_ok=True)
    return unfinished


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def write_json(path: str | os.PathLike, content) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinity become null."""
    with atomic_write(path) as file:
        json.dump(_finite(content), file, indent=2)
        file.write("\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
