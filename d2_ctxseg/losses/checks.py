"""Checks of options, whose messages name the choices."""


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError, naming the choices, where an option is none of them."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}', expected one of {', '.join(choices)}.")


def check_positive(**options: float) -> None:
    """Raise ValueError where an option is not above 0."""
    for name, value in options.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}, expected a number above 0.")
