"""Rules for the keys of MODEL.ENCODER, for each backbone of this project."""

from ..expectations import one_of_integers, several, text
from .values import SHARE, SIZE, Rules

ENCODER_RULES: Rules = {
    "NAME": text(empty=False),
    "WEIGHTS": text(),
    "OUTPUT_STRIDE": one_of_integers(8, 16, 32),
    "DROP_PATH_RATE": SHARE,
}
VIT_RULES: Rules = {
    "NAME": text(empty=False),
    "WEIGHTS": text(),
    "OUT_INDICES": several(SIZE),
    "DROP_PATH_RATE": SHARE,
}
