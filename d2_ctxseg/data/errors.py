"""The exception of this package."""

from ..utils.errors import UserError


class DatasetError(UserError):
    """Something is wrong with a dataset: its description, its folders or one of its files.

    The message says what, in which file, what was expected and what to do.
    """
