"""Checks that all readers of a dataset's description use."""

from ..utils.errors import shown, suggest

#: The largest value of a 16-bit label file.
MAX_LABEL_VALUE = 65535


class InvalidDescription(Exception):
    """A description is invalid. The message lacks the file, which the caller adds."""


def check_keys(mapping, known, required, what: str) -> None:
    """Check the keys of a mapping in a description.

    Args:
        mapping: the content, which may be anything.
        known: the accepted keys.
        required: the keys that must not be missing.
        what: the mapping's name in messages.

    Raises:
        InvalidDescription: it is not a mapping, or a key is unknown or missing.
    """
    if not isinstance(mapping, dict):
        raise InvalidDescription(
            f"{what} must be a mapping with the keys {', '.join(known)}, but is {shown(mapping)}."
        )
    for key in mapping:
        if key not in known:
            raise InvalidDescription(
                f"unknown key '{key}' in {what}.{suggest(key, known)} "
                f"Known keys: {', '.join(known)}."
            )
    missing = [key for key in required if key not in mapping]
    if missing:
        raise InvalidDescription(f"{what} lacks the key '{missing[0]}'.")


def is_integer(value, low: int, high: int) -> bool:
    """Whether a value of any type is an integer from ``low`` to ``high``, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
