"""The terminal shows the first line of long records while a run is set up."""

import logging
import sys
from contextlib import contextmanager
from unittest import mock

import pytest

from d2_ctxseg.engine.console import short_console
from detectron2.utils.logger import setup_logger

LONG = "Model:\n" + "\n".join(f"layer {i}" for i in range(30))
SHORT = "Groups:\na\nb"


class Terminal:
    """A stream that keeps what is written to it."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@contextmanager
def logging_to(folder):
    """A function that logs, and gives what the terminal then shows and what log.txt has."""
    terminal = Terminal()
    # Set here and not in a fixture, after which pytest puts its own in place.
    with mock.patch.object(sys, "stdout", terminal):
        logger = setup_logger(str(folder), name="d2_ctxseg")

        def log(message, level=logging.INFO):
            start = len(terminal.text)
            logger.log(level, message)
            return terminal.text[start:], (folder / "log.txt").read_text()

        yield log
    for name in ("d2_ctxseg", "detectron2", "fvcore"):
        for handler in list(logging.getLogger(name).handlers):
            if handler.stream is terminal or getattr(handler.stream, "name", "") == str(
                folder / "log.txt"
            ):
                logging.getLogger(name).removeHandler(handler)


def test_long_records_are_cut_on_the_terminal_alone(tmp_path):
    with logging_to(tmp_path) as log:
        with short_console(str(tmp_path)):
            terminal, file = log(LONG)
            assert terminal.endswith("Model: (30 lines in log.txt)\n") and "layer" not in terminal
            assert file.endswith(LONG + "\n")
            assert log(SHORT)[0].endswith(SHORT + "\n")
            assert log(LONG, logging.WARNING)[0].endswith("layer 29\n")
        assert log(LONG)[0].endswith("layer 29\n")


def test_an_error_in_the_set_up_leaves_the_console_as_it_was(tmp_path):
    with logging_to(tmp_path) as log:
        with pytest.raises(ZeroDivisionError), short_console(str(tmp_path)):
            raise ZeroDivisionError
        assert log(LONG)[0].endswith("layer 29\n")
