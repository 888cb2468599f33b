"""Errors that a user can correct, as opposed to bugs of the program.

Every entry point uses them. An error that a user can correct becomes one message on stderr and an
exit code. Every other error keeps its traceback for a bug report.
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
# Errors that libraries raise for a user's input: a pattern of their message -> our message.
_OF_LIBRARIES = {
    r"^Loss became infinite or NaN|^Must set MODEL\.": "{message}.",
    r"^Expected more than 1 value per channel when training": (
        "A normalization gets a single value per channel: {message}. In training, use larger "
        "micro-batches: raise SOLVER.IMS_PER_BATCH, or lower the number of processes or "
        "SOLVER.ACCUMULATION_STEPS. In a prediction, the image is too small."
    ),
    r"^\[enforce fail at alloc_cpu|can't allocate memory|CUDA out of memory|^Unable to allocate": (
        "Out of memory: {message}. Use smaller images, smaller batches or fewer loader workers "
        "(SOLVER.IMS_PER_BATCH, INPUT.*_SIZE_*, TEST.SLIDING_WINDOW, DATALOADER.NUM_WORKERS)."
    ),
    r"^DataLoader worker \(pid.*(exited unexpectedly|is killed)|unable to open shared memory": (
        "A loader worker died: {message}. The usual cause is too little memory or shared memory "
        "(/dev/shm): lower DATALOADER.NUM_WORKERS."
    ),
}
_LIBRARY_ERRORS = (ValueError, RuntimeError, ArithmeticError, MemoryError, AssertionError)


class UserError(ValueError):
    """Invalid input. The message says what is wrong, where, what was expected and what to do."""


class UsageError(UserError):
    """An invalid command line. The exit code is 2, as with argparse."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named or has to provide does not exist."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A phrase for a message that suggests the nearest of the ``known`` names, or ``""``."""
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
    """The message for the user; None if the error is a bug of the program.

    A user can correct a UserError, an OSError (except for files of this package) and the errors
    that libraries raise for invalid input. An error in a data loader's worker is reduced to the
    worker's message.
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
    """End the program with a message but without a traceback on an error that a user can correct.

    The exit code is 1 for an error, 2 for an invalid command line, 130 for Ctrl-C and 143 for
    SIGTERM. If the environment variable D2_CTXSEG_TRACEBACK is set, the traceback is shown.
    """
    # Detectron2 logs the error of a non-finite loss with its traceback before it is raised.
    train_log = logging.getLogger("detectron2.engine.train_loop")
    train_log.addFilter(_leave_traceback_out)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # An interrupt caused by SIGTERM has the signal's number as its argument.
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended. Nothing can be printed any more.
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
    """Run an entry point; see :func:`exit_on_user_error`."""
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
    """The message of an error in a loader worker, without torch's traceback; None for others."""
    text, kind = str(error), type(error)
    if not re.match(r"Caught \w+ in DataLoader worker process", text):
        return None
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    # The last line of the traceback, and further lines of the message.
    _, found, message = text.rpartition(f"\n{name}: ")
    return message.strip() if found else None


def _leave_traceback_out(record: logging.LogRecord) -> bool:
    """A log filter that reduces an error that a user can correct to its message."""
    error = record.exc_info[1] if record.exc_info else None
    message = explain(error) if error else None
    if message is not None and not os.environ.get("D2_CTXSEG_TRACEBACK"):
        record.msg, record.args, record.exc_info = "%s %s", (record.getMessage(), message), None
    return True
