"""Rules for the keys of this project's heads."""

from ...losses.mask_losses import MASK_LOSSES
from ...modeling.heads.ece import UPDATERS
from ...modeling.heads.segvit import CLASS_EMBEDDINGS
from ..expectations import choice, optional, several, text
from .values import COUNT, NAMES, PAIRS, POSITIVE, SHARE, SIZE, WEIGHT, Rules

#: MODEL.SEM_SEG_HEAD.NAME -> the head's section below MODEL, and rules for its keys.
HEAD_RULES: dict[str, tuple[str, Rules]] = {
    "SMPDecoderHead": ("SEM_SEG_HEAD.DECODER", {"NAME": text(empty=False), "OPTIONS": PAIRS}),
    "FCNHead": (
        "FCN_HEAD",
        {
            "IN_FEATURES": NAMES,
            "CHANNELS": optional(COUNT),
            "NUM_CONVS": SIZE,
            "KERNEL_SIZE": COUNT,
        },
    ),
    "UPerHead": (
        "UPER_HEAD",
        {"IN_FEATURES": NAMES, "CHANNELS": COUNT, "POOL_SCALES": several(COUNT)},
    ),
    "PSPHead": (
        "PSP_HEAD",
        {"IN_FEATURE": text(), "CHANNELS": COUNT, "POOL_SCALES": several(COUNT)},
    ),
    "DepthwiseSeparableASPPHead": (
        "ASPP_HEAD",
        {
            "IN_FEATURE": text(),
            "LOW_LEVEL_FEATURE": text(),
            "CHANNELS": COUNT,
            "LOW_LEVEL_CHANNELS": COUNT,
            "DILATIONS": several(COUNT),
        },
    ),
    "OCRHead": (
        "OCR_HEAD",
        {
            "IN_FEATURES": NAMES,
            "CHANNELS": COUNT,
            "KEY_CHANNELS": COUNT,
            "COARSE_CHANNELS": optional(COUNT),
            "LOSS_WEIGHT_COARSE": WEIGHT,
        },
    ),
    "ECEHead": (
        "ECE_HEAD",
        {
            "IN_FEATURES": NAMES,
            "CHANNELS": COUNT,
            "NUM_HEADS": COUNT,
            "POOL_RATIO": POSITIVE,
            "UPDATER": choice(UPDATERS),
            "DROPOUT": SHARE,
            "MASK_LOSS": choice(MASK_LOSSES),
            "LOSS_WEIGHT_MASK": WEIGHT,
            "LOSS_WEIGHT_DICE": WEIGHT,
            "LOSS_WEIGHT_DIVERSITY": WEIGHT,
        },
    ),
    "SegViTHead": (
        "SEGVIT_HEAD",
        {
            "IN_FEATURES": NAMES,
            "CHANNELS": COUNT,
            "NUM_HEADS": COUNT,
            "NUM_LAYERS": COUNT,
            "DROPOUT": SHARE,
            "CLASS_EMBEDDINGS": choice(CLASS_EMBEDDINGS),
            "LOSS_WEIGHT_CLASS": WEIGHT,
            "LOSS_WEIGHT_MASK": WEIGHT,
            "LOSS_WEIGHT_DICE": WEIGHT,
            "NO_OBJECT_WEIGHT": WEIGHT,
            "LOSS_STRIDE": COUNT,
        },
    ),
}
