"""Checks of arguments; their messages state what was expected."""

from typing import TypeVar

T = TypeVar("T")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError if a value is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}', expected one of {', '.join(choices)}.")


def check_positive(**options: float) -> None:
    """Raise ValueError where an option is not above 0."""
    for name, value in options.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}, expected a number above 0.")


def required(value: T | None, name: str) -> T:
    """The value; raises ValueError where it is None, since the model was built without it."""
    if value is None:
        raise ValueError(f"{name} is needed, but this model was built or stripped without it.")
    return value
