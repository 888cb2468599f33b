"""Shorten the log on the terminal; log.txt has the complete log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

_LOGGERS = ("detectron2", "fvcore", "d2_ctxseg")
_MOST_LINES = 5


@contextmanager
def short_console(output_dir: str) -> Iterator[None]:
    """Of records with many lines, such as the config and the model, show the first on the terminal.

    For the time in which a run is set up. Detectron2's loggers are set up as its ``default_setup``
    does, which then leaves them as they are.

    Args:
        output_dir: the run's folder; its log.txt receives the complete records.
    """
    for name in ("fvcore", None):
        named = {"name": name} if name else {}
        setup_logger(output_dir, distributed_rank=comm.get_rank(), **named)
    handlers = [
        handler
        for name in _LOGGERS
        for handler in logging.getLogger(name).handlers
        if getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
    ]
    formatters = [handler.formatter for handler in handlers]
    for handler in handlers:
        handler.setFormatter(_FirstLine(handler.formatter))
    try:
        yield
    finally:
        for handler, formatter in zip(handlers, formatters):
            handler.setFormatter(formatter)


class _FirstLine(logging.Formatter):
    """As another formatter, cut to the first line where there are more than ``_MOST_LINES``."""

    def __init__(self, inner: logging.Formatter | None):
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        text = self.inner.format(record)
        first, *others = text.split("\n")
        if len(others) < _MOST_LINES or record.levelno > logging.INFO:
            return text
        return f"{first} ({len(others)} lines in log.txt)"
