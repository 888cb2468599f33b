"""Types of command line arguments; argparse ends the program with exit code 2 where they fail."""

import argparse
from collections.abc import Callable


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0 and at most 1")
    return value


def integer_from(low: int) -> Callable[[str], int]:
    """An integer that is ``low`` at least."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer from {low}")
        return value

    return parse
