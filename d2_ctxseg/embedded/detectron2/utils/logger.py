"""Logging: one place that says how a line looks."""

import atexit
import functools
import logging
import os
import sys

from termcolor import colored

from .file_io import PathManager

__all__ = ["setup_logger"]

TIME_FORMAT = "%m/%d %H:%M:%S"
PLAIN_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"


class _ColourFormatter(logging.Formatter):
    """Lines for the terminal: green prefix, short logger names, warnings and errors in red."""

    def __init__(self, root_name: str, abbreviation: str):
        super().__init__(
            colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=TIME_FORMAT
        )
        self._prefix = f"{root_name}."
        self._short_prefix = f"{abbreviation}." if abbreviation else ""

    def formatMessage(self, record):
        # Set in the record itself: the log file, whose handler comes later, has the short name too.
        record.name = record.name.replace(self._prefix, self._short_prefix)
        line = super().formatMessage(record)
        if record.levelno == logging.WARNING:
            return colored("WARNING", "red", attrs=["blink"]) + " " + line
        if record.levelno in (logging.ERROR, logging.CRITICAL):
            return colored("ERROR", "red", attrs=["blink", "underline"]) + " " + line
        return line


@functools.lru_cache  # a second call with the same arguments must not add handlers again
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Make a logger write everything from DEBUG on to the terminal, and to a file if asked.

    Args:
        output: a file (ending in .txt or .log), or a folder in which log.txt is written. Lines are
            appended. None: no file.
        distributed_rank: only rank 0 writes to the terminal; the others write to a file of their
            own, with ``.rank<N>`` appended to its name.
        color: whether lines on the terminal are coloured.
        name: the logger; those below it ("detectron2.engine") are set up with it.
        abbrev_name: written instead of ``name`` in front of names below it. By default "d2" for
            "detectron2", otherwise ``name``. "" leaves it out.
        enable_propagation: whether lines also go to the logger above.
        configure_stdout: whether to write to the terminal at all.

    Returns:
        The logger.
    """
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter(PLAIN_FORMAT, datefmt=TIME_FORMAT)

    if configure_stdout and distributed_rank == 0:
        formatter = _ColourFormatter(name, abbrev_name) if color else plain
        _add_handler(logger, sys.stdout, formatter)
    if output is not None:
        is_file = output.endswith((".txt", ".log"))
        path = output if is_file else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path += f".rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(path))
        _add_handler(logger, _open_log(path), plain)
    return logger


def _add_handler(logger: logging.Logger, stream, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache  # loggers that share a file must share the open file
def _open_log(path: str):
    stream = PathManager.open(path, "a")
    atexit.register(stream.close)
    return stream
