"""Expectations on config values: a test, and words for the error message."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..utils.errors import shown, suggest


@dataclass(frozen=True)
class Expectation:
    """An expectation on a value.

    Attributes:
        words: the words after "expected", such as "an integer of at least 1".
        holds: whether a value of any type meets the expectation.
        names: the valid names, of which the message suggests the nearest; empty for other values.
    """

    words: str
    holds: Callable[[object], bool]
    names: tuple[str, ...] = ()

    def problem(self, key: str, value: object) -> str | None:
        """A sentence about a value that does not meet the expectation; None if it does."""
        if self.holds(value):
            return None
        if value is None:
            return f"{key} has no value, expected {self.words}."
        return f"{key} is {shown(value)}, expected {self.words}.{suggest(value, self.names)}"


def integer(low: int | None = None, high: int | None = None) -> Expectation:
    """An integer between two limits, which are included."""
    words = "an integer" + _limits(low, high)
    return Expectation(words, lambda value: _is_integer(value) and _is_between(value, low, high))


def number(
    low: float | None = None, high: float | None = None, *, above: bool = False, below: bool = False
) -> Expectation:
    """A finite number between two limits, which are included but for ``above`` and ``below``."""
    words = "a number" + _limits(low, high, above, below)

    def holds(value: object) -> bool:
        is_number = _is_integer(value) or isinstance(value, float)
        if not is_number or not math.isfinite(value) or not _is_between(value, low, high):
            return False
        return not (above and value == low) and not (below and value == high)

    return Expectation(words, holds)


def one_of_integers(*values: int) -> Expectation:
    """One of a few integers."""
    words = f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
    return Expectation(words, lambda value: _is_integer(value) and value in values)


def choice(names: Iterable[str]) -> Expectation:
    """One of some names."""
    names = tuple(names)
    words = f"one of {', '.join(repr(name) for name in names)}"
    return Expectation(words, lambda value: isinstance(value, str) and value in names, names)


def text(*, empty: bool = True) -> Expectation:
    """A text; ``empty`` allows the empty one."""
    words = "a text" if empty else "a text that is not empty"
    return Expectation(words, lambda value: isinstance(value, str) and (empty or value != ""))


def optional(expectation: Expectation) -> Expectation:
    """None, or a value that meets another expectation."""
    return Expectation(
        f"{expectation.words} or None",
        lambda value: value is None or expectation.holds(value),
        expectation.names,
    )


def several(
    of: Expectation, *, length: int | None = None, least: int = 1, called: str | None = None
) -> Expectation:
    """A list or tuple of values, ``length`` of them, or at least ``least``."""
    if called is None:
        count = str(length) if length is not None else {0: "any number", 1: "one or more"}[least]
        called = f"a list of {count}, each {of.words}"

    def holds(value: object) -> bool:
        if not isinstance(value, list | tuple) or not all(of.holds(item) for item in value):
            return False
        return len(value) == length if length is not None else len(value) >= least

    return Expectation(called, holds)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _limits(low, high, above: bool = False, below: bool = False) -> str:
    if high is None:
        return "" if low is None else f" above {low}" if above else f" of at least {low}"
    words = "" if low is None else f" above {low}" if above else f" from {low}"
    return words + (f" to below {high}" if below else f" to {high}")
