"""Errors that are the user's to correct, told apart from defects of the program.

Every entry point ends here: what a user can correct becomes one message on stderr and an exit code,
everything else keeps its traceback, which a report of a defect needs.
"""

import difflib
import logging
import os
import re
import reprlib
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# What libraries raise on a user's input, by a part of their message, and what it means.
_OF_LIBRARIES = {
    r"^Loss became infinite or NaN|^Must set MODEL\.": "{message}.",
    r"^Expected more than 1 value per channel when training": (
        "A normalization gets a single value per channel: {message}. In training, "
        "let more images go through the model at once: raise SOLVER.IMS_PER_BATCH, or lower the "
        "number of processes or SOLVER.ACCUMULATION_STEPS. In a prediction, the image is too small."
    ),
    r"^\[enforce fail at alloc_cpu|can't allocate memory|CUDA out of memory|^Unable to allocate": (
        "Memory ran out: {message}. Take smaller images, fewer at once, or fewer loader workers "
        "(SOLVER.IMS_PER_BATCH, INPUT.*_SIZE_*, TEST.SLIDING_WINDOW, DATALOADER.NUM_WORKERS)."
    ),
    r"^DataLoader worker \(pid.*(exited unexpectedly|is killed)|unable to open shared memory": (
        "A loader worker died: {message}. Most often memory or shared memory (/dev/shm) ran out: "
        "lower DATALOADER.NUM_WORKERS."
    ),
}
_LIBRARY_ERRORS = (ValueError, RuntimeError, ArithmeticError, MemoryError, AssertionError)


class UserError(ValueError):
    """Wrong input: the message says what was wrong, where, what was expected and what to do."""


class UsageError(UserError):
    """A command line that cannot be meant; the exit code is 2, as argparse's is."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or has to provide, is not there."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest of the ``known`` names as a phrase to append to a message, or ``""``."""
    nearest = difflib.get_close_matches(str(name), [str(item) for item in known], n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def shown(value: object) -> str:
    """A value for a message: its ``repr``, shortened where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxlevel = 3
    short.maxlist = short.maxtuple = short.maxdict = 12
    return short.repr(value)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun for a message: "1 colour", "2 colours", "1 entry", "2 entries"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def explain(error: BaseException) -> str | None:
    """The message for the user; None if the error is a defect of the program.

    A user's are UserError, OSError (but for files of this package), and what libraries raise on a
    user's input. Of an error in a data loader's worker it is the worker's message alone.
    """
    message = _message_of_worker(error) or str(error)
    if isinstance(error, UserError):
        return message
    if isinstance(error, OSError):
        return _explain_os_error(error, message)
    if isinstance(error, _LIBRARY_ERRORS):
        for pattern, meaning in _OF_LIBRARIES.items():
            if re.search(pattern, message):
                return meaning.format(message=message.rstrip("."))
    return None


@contextmanager
def exit_on_user_error():
    """Ends the program with the message alone, without a traceback, on a user's error.

    Exit codes as usual: 1 for an error, 2 for a wrong command line, 130 for Ctrl-C, 143 for
    SIGTERM.
    The environment variable D2_CTXSEG_TRACEBACK shows the traceback all the same.
    """
    # Detectron2 logs a loss that is not finite with its traceback, before it comes here.
    train_log = logging.getLogger("detectron2.engine.train_loop")
    train_log.addFilter(_leave_traceback_out)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # One that SIGTERM caused has that signal's number as its argument.
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))
    except BrokenPipeError:
        # What reads the output has ended, as `head` does. Nothing can be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = None if os.environ.get("D2_CTXSEG_TRACEBACK") else explain(error)
        if message is None:
            raise
        if isinstance(error, UsageError):
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)
        sys.exit(f"error: {message}")
    finally:
        train_log.removeFilter(_leave_traceback_out)


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; a user's error becomes a message on stderr and exit code 1."""
    with exit_on_user_error():
        main()


def _explain_os_error(error: OSError, message: str) -> str | None:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if any(_PACKAGE in Path(name).absolute().parents for name in names):
        return None
    if names and error.strerror:
        return f"{' -> '.join(repr(name) for name in names)}: {error.strerror}."
    return message


def _message_of_worker(error: BaseException) -> str | None:
    """What an error said before torch put a worker's traceback around it, as text; else None."""
    text, kind = str(error), type(error)
    if not re.match(r"Caught \w+ in DataLoader worker process", text):
        return None
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    # The last line of a traceback, and what the message has in lines of its own.
    _, found, message = text.rpartition(f"\n{name}: ")
    return message.strip() if found else None


def _leave_traceback_out(record: logging.LogRecord) -> bool:
    """A filter of log records that turns a user's error into its message."""
    error = record.exc_info[1] if record.exc_info else None
    message = explain(error) if error else None
    if message is not None and not os.environ.get("D2_CTXSEG_TRACEBACK"):
        record.msg, record.args, record.exc_info = "%s %s", (record.getMessage(), message), None
    return True
