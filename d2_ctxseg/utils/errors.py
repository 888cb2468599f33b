"""Errors that are the user's to correct, told apart from defects of the program."""

import difflib
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager


class UserError(ValueError):
    """Wrong input: the message says what was wrong, where, what was expected and what to do."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or has to provide, is not there."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest of the ``known`` names as a phrase to append to a message, or ``""``."""
    nearest = difflib.get_close_matches(str(name), [str(item) for item in known], n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


@contextmanager
def exit_on_user_error():
    """Ends the program with the message alone, without a traceback, on a UserError.

    Exit codes as usual: 1 for an error, 130 for Ctrl-C, 143 for SIGTERM.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        # One that SIGTERM caused has that signal's number as its argument.
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; a UserError becomes a message on stderr and exit code 1."""
    with exit_on_user_error():
        main()
