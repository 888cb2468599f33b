"""Rules for keys that hold for every model: data, inputs, evaluation, optional sections."""

import math

from PIL import Image

from ...data.images import ALL_CHANNELS, MOST_MEGAPIXELS
from ...evaluation.confusion import ABSENT_CLASSES
from ...modeling.inference.anomaly_scores import ANOMALY_SCORES
from ...modeling.inference.test_time_augmentation import AVERAGES
from ..expectations import Expectation, choice, integer, number, optional, several, text
from ..optimizer import CLIP_TYPES
from .values import COUNT, FEATURE, NAMES, PAIRS, POSITIVE, SHARE, SIDES, SIZE, WEIGHT, Rules

# Detectron2's formats, the modes of Pillow, and all channels of the files.
_FORMATS = ("RGB", "BGR", ALL_CHANNELS, "YUV-BT.601", *sorted(set(Image.MODES) - {"RGB"}))
# NumPy's generators take 32 bits, and each process adds its rank to the seed.
_LARGEST_SEED = 2**32 - 2**16
# Labels above 255 are converted to single precision, which is exact up to this value.
_LARGEST_LABEL = 2**24

_CLASS_WEIGHTS = Expectation(
    "None, 'balanced' or a list of numbers of at least 0, one per class and not all 0",
    lambda value: (
        value is None
        or value == "balanced"
        or (several(WEIGHT, least=0).holds(value) and (len(value) == 0 or any(value)))
    ),
    ("balanced",),
)
_EXPECTED_RESULTS = Expectation(
    "a list of [task, metric, value, tolerance]",
    lambda value: (
        isinstance(value, list | tuple)
        and all(
            isinstance(item, list | tuple)
            and len(item) == 4
            and all(isinstance(name, str) for name in item[:2])
            and all(number().holds(bound) for bound in item[2:])
            for item in value
        )
    ),
)
_DESCRIPTIONS = Expectation(
    "a list of descriptions of datasets, as a run writes it into its config.yaml",
    lambda value: (
        isinstance(value, list | tuple)
        and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value)
    ),
)

RULES: Rules = {
    "OUTPUT_DIR": text(empty=False),
    "SEED": integer(None, _LARGEST_SEED),
    "FLOAT32_PRECISION": choice(("", "highest", "high", "medium")),
    "IMPORTS": several(text(empty=False), least=0, called="a list of Python files"),
    "DATASETS.FOLDERS": several(text(empty=False), least=0, called="a list of paths"),
    "DATASETS.DESCRIPTIONS": _DESCRIPTIONS,
    "DATASETS.TRAIN": NAMES,
    "DATASETS.TEST": NAMES,
    "INPUT.FORMAT": choice(_FORMATS),
    "INPUT.MIN_SIZE_TRAIN": several(SIZE),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": choice(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": COUNT,
    "INPUT.MIN_SIZE_TEST": SIZE,
    "INPUT.MAX_SIZE_TEST": COUNT,
    "INPUT.RATIO_RANGE": several(POSITIVE, length=2, called="two positive numbers, (low, high)"),
    "INPUT.ASPECT_RANGE": several(POSITIVE, length=2, called="two positive numbers, (low, high)"),
    "INPUT.BRIGHTNESS_SHIFT": integer(0, 255),
    "INPUT.SIZE_DIVISIBILITY_TEST": COUNT,
    "INPUT.RANDOM_FLIP": choice(("horizontal", "vertical", "none")),
    "MODEL.WEIGHTS": text(),
    "MODEL.PIXEL_MEAN": several(number()),
    "MODEL.PIXEL_STD": several(POSITIVE),
    "MODEL.BACKBONE.FREEZE_AT": SIZE,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": COUNT,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": integer(-_LARGEST_LABEL, _LARGEST_LABEL),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": WEIGHT,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": NAMES,
    "MODEL.CLASSIFIER.OPTIONS": PAIRS,
    "MODEL.CLASSIFIER.DROPOUT": SHARE,
    "MODEL.PIXEL_LOSS.HARD_PIXEL_SHARE": optional(number(0, 1, above=True)),
    "MODEL.PIXEL_LOSS.HARD_PIXEL_THRESHOLD": SHARE,
    "MODEL.PIXEL_LOSS.LABEL_SMOOTHING": SHARE,
    "MODEL.PIXEL_LOSS.CLASS_WEIGHTS": _CLASS_WEIGHTS,
    "TEST.ABSENT_CLASSES": choice(ABSENT_CLASSES),
    "TEST.ANOMALY.SCORES": several(choice(ANOMALY_SCORES), least=0),
    "TEST.BEST_METRIC": text(),
    "TEST.TEMPERATURE": optional(POSITIVE),
    "TEST.AUG.TEMPERATURE": optional(POSITIVE),
    "TEST.EXPECTED_RESULTS": _EXPECTED_RESULTS,
    "TEST.NUM_OVERLAYS": SIZE,
    "TEST.NUM_EXAMPLES": SIZE,
    "TEST.MAX_MEGAPIXELS": number(0, MOST_MEGAPIXELS, above=True),
}

#: Section with a key ENABLED -> rules that hold if it is True.
RULES_OF_ENABLED: dict[str, Rules] = {
    "INPUT.CROP": {
        "TYPE": choice(("absolute", "absolute_range", "relative", "relative_range")),
        "SIZE": several(POSITIVE, length=2, called="two positive numbers, height and width"),
        "SINGLE_CATEGORY_MAX_AREA": POSITIVE,
    },
    "MODEL.AUXILIARY_HEAD": {
        "IN_FEATURE": FEATURE,
        "CHANNELS": COUNT,
        "NUM_CONVS": SIZE,
        "DROPOUT": SHARE,
        "LOSS_WEIGHT": WEIGHT,
    },
    "TEST.SLIDING_WINDOW": {"SIZE": SIDES, "STRIDE": SIDES, "BATCH_SIZE": COUNT},
    "TEST.AUG": {"RATIOS": several(POSITIVE, least=0), "AVERAGE": choice(AVERAGES)},
    "TEST.PRECISE_BN": {"NUM_ITER": COUNT},
    "SOLVER.EMA": {"DECAY": SHARE},
    "SOLVER.CLIP_GRADIENTS": {
        "CLIP_TYPE": choice(CLIP_TYPES),
        "CLIP_VALUE": POSITIVE,
        "NORM_TYPE": Expectation(
            "a positive number, or infinity",
            lambda value: value == math.inf or POSITIVE.holds(value),
        ),
    },
}
