"""Types of command-line arguments. argparse exits with code 2 if a value is invalid."""

import argparse
from collections.abc import Callable


def share(text: str) -> float:
    """Parse a number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0 and at most 1")
    return value


def integer_from(low: int) -> Callable[[str], int]:
    """A parser of integers that are at least ``low``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer of at least {low}")
        return value

    return parse
