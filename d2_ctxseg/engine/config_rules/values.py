"""Expectations that several tables of rules share."""

from ..expectations import Expectation, integer, number, several, text

#: Config key -> expectation on its value.
Rules = dict[str, Expectation]

COUNT = integer(1)
SIZE = integer(0)
WEIGHT = number(0)
POSITIVE = number(0, above=True)
SHARE = number(0, 1, below=True)
PROBABILITY = number(0, 1)
SIDES = several(COUNT, length=2, called="height and width, two integers of at least 1")
NAMES = several(text(empty=False), least=0, called="a list of names")
FEATURES = several(text(empty=False), called="a list of one or more names of feature maps")
FEATURE = text(empty=False)

PAIRS = Expectation(
    "pairs, [name, value, name, value, ...]",
    lambda value: (
        isinstance(value, list | tuple)
        and len(value) % 2 == 0
        and all(isinstance(name, str) for name in value[::2])
    ),
)
