"""Tables of the rules for config values; ``validate_config`` applies them.

Types alone need no rule: Detectron2's config keeps the type of a key's default, except for None.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ..classifiers import CLASSIFIER_REGISTRY, PixelClassifier
from ..classifiers.adaptive_parts import ORACLE_CONTEXTS, SIMILARITIES
from ..classifiers.context_aware import ENTROPY_SOURCES
from ..classifiers.gaussian_mixture import LEARNING
from ..classifiers.learned_prototype import SCORES
from ..classifiers.mixture_density import CLASS_SCORES
from ..classifiers.mixture_estimation import COVARIANCES, E_STEPS
from ..classifiers.prototype import ASSIGNMENTS, SYNCHRONIZATIONS
from ..classifiers.prototype_similarity import DISTANCES
from ..classifiers.semantic_spatial import DIVISORS, PROTOTYPES, RESPONSE_WEIGHTINGS
from ..data.images import ALL_CHANNELS, MOST_MEGAPIXELS
from ..evaluation.confusion import ABSENT_CLASSES
from ..losses.boundary import BOUNDARIES
from ..losses.distillation import DISTILLATION_TARGETS, DISTILLATION_WEIGHTINGS
from ..losses.mask_losses import MASK_LOSSES
from ..modeling.heads.adapter import LOSS_TYPES
from ..modeling.heads.ece import UPDATERS
from ..modeling.heads.segvit import CLASS_EMBEDDINGS
from ..modeling.inference.anomaly_scores import ANOMALY_SCORES
from ..modeling.inference.test_time_augmentation import AVERAGES
from .expectations import (
    Expectation,
    choice,
    integer,
    number,
    one_of_integers,
    optional,
    several,
    text,
)
from .lr_scheduler import SCHEDULES, WARMUP_METHODS
from .optimizer import CLIP_TYPES, OPTIMIZERS

# Detectron2's formats, the modes of Pillow, and all channels of the files.
_FORMATS = ("RGB", "BGR", ALL_CHANNELS, "YUV-BT.601", *sorted(set(Image.MODES) - {"RGB"}))
# NumPy's generators take 32 bits, and each process adds its rank to the seed.
_LARGEST_SEED = 2**32 - 2**16
# Labels that do not fit into a byte are converted to single precision.
_LARGEST_LABEL = 2**24

Rules = dict[str, Expectation]

_COUNT = integer(1)
_SIZE = integer(0)
_WEIGHT = number(0)
_POSITIVE = number(0, above=True)
_SHARE = number(0, 1, below=True)
_PROBABILITY = number(0, 1)
_SIDES = several(_COUNT, length=2, called="height and width, two integers of at least 1")
_NAMES = several(text(empty=False), least=0, called="a list of names")
_FEATURES = several(text(empty=False), called="a list of one or more names of feature maps")
_FEATURE = text(empty=False)
_STEPS = Expectation(
    "a list of increasing integers of at least 0",
    lambda value: several(_SIZE, least=0).holds(value) and list(value) == sorted(set(value)),
)
_CLASS_WEIGHTS = Expectation(
    "None, 'balanced' or a list of numbers of at least 0, one per class and not all 0",
    lambda value: (
        value is None
        or value == "balanced"
        or (several(_WEIGHT, least=0).holds(value) and (len(value) == 0 or any(value)))
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
_PAIRS = Expectation(
    "pairs, [name, value, name, value, ...]",
    lambda value: (
        isinstance(value, list | tuple)
        and len(value) % 2 == 0
        and all(isinstance(name, str) for name in value[::2])
    ),
)

RULES: Rules = {
    "OUTPUT_DIR": text(empty=False),
    "SEED": integer(None, _LARGEST_SEED),
    "FLOAT32_PRECISION": choice(("", "highest", "high", "medium")),
    "IMPORTS": several(text(empty=False), least=0, called="a list of Python files"),
    "DATASETS.FOLDERS": several(text(empty=False), least=0, called="a list of paths"),
    "DATASETS.DESCRIPTIONS": _DESCRIPTIONS,
    "DATASETS.TRAIN": _NAMES,
    "DATASETS.TEST": _NAMES,
    "INPUT.FORMAT": choice(_FORMATS),
    "INPUT.MIN_SIZE_TRAIN": several(_SIZE),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": choice(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": _COUNT,
    "INPUT.MIN_SIZE_TEST": _SIZE,
    "INPUT.MAX_SIZE_TEST": _COUNT,
    "INPUT.RATIO_RANGE": several(_POSITIVE, length=2, called="two positive numbers, (low, high)"),
    "INPUT.ASPECT_RANGE": several(_POSITIVE, length=2, called="two positive numbers, (low, high)"),
    "INPUT.BRIGHTNESS_SHIFT": integer(0, 255),
    "INPUT.SIZE_DIVISIBILITY_TEST": _COUNT,
    "INPUT.RANDOM_FLIP": choice(("horizontal", "vertical", "none")),
    "MODEL.WEIGHTS": text(),
    "MODEL.PIXEL_MEAN": several(number()),
    "MODEL.PIXEL_STD": several(_POSITIVE),
    "MODEL.BACKBONE.FREEZE_AT": _SIZE,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _COUNT,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": integer(-_LARGEST_LABEL, _LARGEST_LABEL),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _WEIGHT,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _NAMES,
    "MODEL.CLASSIFIER.OPTIONS": _PAIRS,
    "MODEL.CLASSIFIER.DROPOUT": _SHARE,
    "MODEL.PIXEL_LOSS.HARD_PIXEL_SHARE": optional(number(0, 1, above=True)),
    "MODEL.PIXEL_LOSS.HARD_PIXEL_THRESHOLD": _SHARE,
    "MODEL.PIXEL_LOSS.LABEL_SMOOTHING": _SHARE,
    "MODEL.PIXEL_LOSS.CLASS_WEIGHTS": _CLASS_WEIGHTS,
    "TEST.ABSENT_CLASSES": choice(ABSENT_CLASSES),
    "TEST.ANOMALY.SCORES": several(choice(ANOMALY_SCORES), least=0),
    "TEST.BEST_METRIC": text(),
    "TEST.TEMPERATURE": optional(_POSITIVE),
    "TEST.AUG.TEMPERATURE": optional(_POSITIVE),
    "TEST.EXPECTED_RESULTS": _EXPECTED_RESULTS,
    "TEST.NUM_OVERLAYS": _SIZE,
    "TEST.NUM_EXAMPLES": _SIZE,
    "TEST.MAX_MEGAPIXELS": number(0, MOST_MEGAPIXELS, above=True),
}

TRAINING_RULES: Rules = {
    "DATALOADER.NUM_WORKERS": _SIZE,
    "DATALOADER.SAMPLER_TRAIN": choice(("TrainingSampler",)),
    "SOLVER.OPTIMIZER": choice(OPTIMIZERS),
    "SOLVER.IMS_PER_BATCH": _COUNT,
    "SOLVER.ACCUMULATION_STEPS": _COUNT,
    "SOLVER.REFERENCE_WORLD_SIZE": _SIZE,
    "SOLVER.MAX_ITER": _COUNT,
    "SOLVER.CHECKPOINT_PERIOD": _COUNT,
    "SOLVER.BASE_LR": _WEIGHT,
    "SOLVER.BACKBONE_MULTIPLIER": _WEIGHT,
    "SOLVER.HEAD_MULTIPLIER": _WEIGHT,
    "SOLVER.LAYER_DECAY": _POSITIVE,
    "SOLVER.WEIGHT_DECAY": _WEIGHT,
    "SOLVER.WEIGHT_DECAY_NORM": optional(_WEIGHT),
    "SOLVER.WEIGHT_DECAY_BIAS": optional(_WEIGHT),
    "SOLVER.WEIGHT_DECAY_EMBED": optional(_WEIGHT),
    "SOLVER.BIAS_LR_FACTOR": optional(_WEIGHT),
    "SOLVER.AMP.PRECISION": choice(("float16", "bfloat16")),
    "SOLVER.LR_SCHEDULER_NAME": choice(SCHEDULES),
    "SOLVER.MIN_LR": _WEIGHT,
    "SOLVER.WARMUP_METHOD": choice(WARMUP_METHODS),
    "SOLVER.WARMUP_FACTOR": _WEIGHT,
    "SOLVER.WARMUP_ITERS": _SIZE,
}

_CLASSIFIER_RULES: dict[str, Rules] = {
    "CONTEXT_AWARE": {
        "SIMILARITY": choice(SIMILARITIES),
        "SCALE": _POSITIVE,
        "LOSS_WEIGHT_REFINED": _WEIGHT,
        "LOSS_WEIGHT_VANILLA": _WEIGHT,
        "LOSS_WEIGHT_ORACLE": _WEIGHT,
        "LOSS_WEIGHT_KL": _WEIGHT,
        "DISTILLATION_TARGET": choice(DISTILLATION_TARGETS),
        "DISTILLATION_WEIGHTING": choice(DISTILLATION_WEIGHTINGS),
        "ENTROPY_SOURCE": choice(ENTROPY_SOURCES),
        "ORACLE_CONTEXT": choice(ORACLE_CONTEXTS),
    },
    "PROTOTYPE": {
        "NUM_PROTOTYPES": _COUNT,
        "MOMENTUM": _PROBABILITY,
        "SINKHORN_ITERATIONS": _COUNT,
        "SINKHORN_EPSILON": _POSITIVE,
        "ASSIGNMENT": choice(ASSIGNMENTS),
        "TEMPERATURE": _POSITIVE,
        "DISTANCE": choice(DISTANCES),
        "SYNCHRONIZATION": choice(SYNCHRONIZATIONS),
        "LOSS_WEIGHT_SEM_SEG": _WEIGHT,
        "LOSS_WEIGHT_PPC": _WEIGHT,
        "LOSS_WEIGHT_PPD": _WEIGHT,
    },
    "SEMANTIC_SPATIAL": {
        "PROTOTYPES": choice(PROTOTYPES),
        "SIMILARITY": choice(SIMILARITIES),
        "SCALE": _POSITIVE,
        "SEMANTIC_ORACLE_CONTEXT": choice(ORACLE_CONTEXTS),
        "SPATIAL_ORACLE_CONTEXT": choice(ORACLE_CONTEXTS),
        "RESPONSE_WEIGHTING": choice(RESPONSE_WEIGHTINGS),
        "BOUNDARY": choice(BOUNDARIES),
        "BOUNDARY_FRAME": _SIZE,
        "BOUNDARY_DILATION": _SIZE,
        "SEM_SEG_DIVISOR": choice(DIVISORS),
        "LOSS_WEIGHT_SEM_SEG": _WEIGHT,
        "LOSS_WEIGHT_VANILLA": _WEIGHT,
        "LOSS_WEIGHT_ORACLE": _WEIGHT,
        "LOSS_WEIGHT_DICE": _WEIGHT,
        "LOSS_WEIGHT_DICE_ORACLE": _WEIGHT,
        "LOSS_WEIGHT_RESPONSE": _WEIGHT,
        "LOSS_WEIGHT_SEMANTIC": _WEIGHT,
        "LOSS_WEIGHT_SPATIAL": _WEIGHT,
    },
    "LEARNED_PROTOTYPE": {"NUM_PROTOTYPES": _COUNT, "SCORE": choice(SCORES)},
    "GAUSSIAN_MIXTURE": {
        "NUM_COMPONENTS": _COUNT,
        "EMBEDDING_CHANNELS": optional(_COUNT),
        "MEMORY_SIZE": _SIZE,
        "MAX_SAMPLES": _COUNT,
        "MEAN_MOMENTUM": _PROBABILITY,
        "SCALE_MOMENTUM": _PROBABILITY,
        "REFIT_INTERVAL": _COUNT,
        "CLASS_SCORE": choice(CLASS_SCORES),
        "E_STEP": choice(E_STEPS),
        "SINKHORN_ITERATIONS": _COUNT,
        "SINKHORN_EPSILON": _POSITIVE,
        "COVARIANCE": choice(COVARIANCES),
        "LEARNING": choice(LEARNING),
        "SEM_SEG_DIVISOR": choice(DIVISORS),
        "LOSS_WEIGHT_SEM_SEG": _WEIGHT,
        "LOSS_WEIGHT_CONTRAST": _WEIGHT,
    },
    "FEATURE_BANK": {
        "SIZE": _COUNT,
        "NUM_NEIGHBORS": _COUNT,
        "TEMPERATURE": _POSITIVE,
        "PRIOR": _WEIGHT,
    },
    "EXPLICIT_CLASS": {
        "CHANNELS": optional(_COUNT),
        "NUM_HEADS": _COUNT,
        "MLP_RATIO": _POSITIVE,
        "POOL_RATIO": _POSITIVE,
        "MASK_LOSS": choice(MASK_LOSSES),
        "LOSS_WEIGHT_MASK": _WEIGHT,
        "LOSS_WEIGHT_DICE": _WEIGHT,
    },
}

# The section of a head of this project, by MODEL.SEM_SEG_HEAD.NAME, and its keys.
_HEAD_RULES: dict[str, tuple[str, Rules]] = {
    "SMPDecoderHead": ("SEM_SEG_HEAD.DECODER", {"NAME": text(empty=False), "OPTIONS": _PAIRS}),
    "FCNHead": (
        "FCN_HEAD",
        {
            "IN_FEATURES": _NAMES,
            "CHANNELS": optional(_COUNT),
            "NUM_CONVS": _SIZE,
            "KERNEL_SIZE": _COUNT,
        },
    ),
    "UPerHead": (
        "UPER_HEAD",
        {"IN_FEATURES": _NAMES, "CHANNELS": _COUNT, "POOL_SCALES": several(_COUNT)},
    ),
    "PSPHead": (
        "PSP_HEAD",
        {"IN_FEATURE": text(), "CHANNELS": _COUNT, "POOL_SCALES": several(_COUNT)},
    ),
    "DepthwiseSeparableASPPHead": (
        "ASPP_HEAD",
        {
            "IN_FEATURE": text(),
            "LOW_LEVEL_FEATURE": text(),
            "CHANNELS": _COUNT,
            "LOW_LEVEL_CHANNELS": _COUNT,
            "DILATIONS": several(_COUNT),
        },
    ),
    "OCRHead": (
        "OCR_HEAD",
        {
            "IN_FEATURES": _NAMES,
            "CHANNELS": _COUNT,
            "KEY_CHANNELS": _COUNT,
            "COARSE_CHANNELS": optional(_COUNT),
            "LOSS_WEIGHT_COARSE": _WEIGHT,
        },
    ),
    "ECEHead": (
        "ECE_HEAD",
        {
            "IN_FEATURES": _NAMES,
            "CHANNELS": _COUNT,
            "NUM_HEADS": _COUNT,
            "POOL_RATIO": _POSITIVE,
            "UPDATER": choice(UPDATERS),
            "DROPOUT": _SHARE,
            "MASK_LOSS": choice(MASK_LOSSES),
            "LOSS_WEIGHT_MASK": _WEIGHT,
            "LOSS_WEIGHT_DICE": _WEIGHT,
            "LOSS_WEIGHT_DIVERSITY": _WEIGHT,
        },
    ),
    "SegViTHead": (
        "SEGVIT_HEAD",
        {
            "IN_FEATURES": _NAMES,
            "CHANNELS": _COUNT,
            "NUM_HEADS": _COUNT,
            "NUM_LAYERS": _COUNT,
            "DROPOUT": _SHARE,
            "CLASS_EMBEDDINGS": choice(CLASS_EMBEDDINGS),
            "LOSS_WEIGHT_CLASS": _WEIGHT,
            "LOSS_WEIGHT_MASK": _WEIGHT,
            "LOSS_WEIGHT_DICE": _WEIGHT,
            "NO_OBJECT_WEIGHT": _WEIGHT,
            "LOSS_STRIDE": _COUNT,
        },
    ),
}

_ENCODER_RULES: Rules = {
    "NAME": text(empty=False),
    "WEIGHTS": text(),
    "OUTPUT_STRIDE": one_of_integers(8, 16, 32),
    "DROP_PATH_RATE": _SHARE,
}
_VIT_RULES: Rules = {
    "NAME": text(empty=False),
    "WEIGHTS": text(),
    "OUT_INDICES": several(_SIZE),
    "DROP_PATH_RATE": _SHARE,
}

# Rules for Detectron2's own backbones and heads.
_NORM = choice(("", "BN", "SyncBN", "nnSyncBN", "FrozenBN", "GN", "LN", "naiveSyncBN"))
_RESNETS = ("build_resnet_backbone", "build_resnet_deeplab_backbone")
_FPNS = ("build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")
_DETECTRON2_HEADS = ("SemSegFPNHead", "DeepLabV3Head", "DeepLabV3PlusHead")
_DETECTRON2_HEAD_RULES: Rules = {
    "IN_FEATURES": _FEATURES,
    "CONVS_DIM": _COUNT,
    "COMMON_STRIDE": _COUNT,
    "NORM": _NORM,
}
_DEEPLAB_RULES: Rules = {
    "LOSS_TYPE": choice(LOSS_TYPES),
    "ASPP_CHANNELS": _COUNT,
    "ASPP_DILATIONS": several(_COUNT, length=3),
    "ASPP_DROPOUT": _SHARE,
}
_RESNET_RULES: Rules = {
    "DEPTH": one_of_integers(18, 34, 50, 101, 152),
    "OUT_FEATURES": _FEATURES,
    "NORM": _NORM,
    "NUM_GROUPS": _COUNT,
    "WIDTH_PER_GROUP": _COUNT,
    "RES2_OUT_CHANNELS": _COUNT,
    "STEM_OUT_CHANNELS": _COUNT,
    "RES4_DILATION": one_of_integers(1, 2),
    "RES5_DILATION": one_of_integers(1, 2, 4),
    "RES5_MULTI_GRID": several(_COUNT, length=3),
    "STEM_TYPE": choice(("basic", "deeplab")),
}
_FPN_RULES: Rules = {
    "IN_FEATURES": _FEATURES,
    "OUT_CHANNELS": _COUNT,
    "NORM": _NORM,
    "FUSE_TYPE": choice(("sum", "avg")),
}

# Rules for sections with a key ENABLED.
_RULES_OF_ENABLED: dict[str, Rules] = {
    "INPUT.CROP": {
        "TYPE": choice(("absolute", "absolute_range", "relative", "relative_range")),
        "SIZE": several(_POSITIVE, length=2, called="two positive numbers, height and width"),
        "SINGLE_CATEGORY_MAX_AREA": _POSITIVE,
    },
    "MODEL.AUXILIARY_HEAD": {
        "IN_FEATURE": _FEATURE,
        "CHANNELS": _COUNT,
        "NUM_CONVS": _SIZE,
        "DROPOUT": _SHARE,
        "LOSS_WEIGHT": _WEIGHT,
    },
    "TEST.SLIDING_WINDOW": {"SIZE": _SIDES, "STRIDE": _SIDES, "BATCH_SIZE": _COUNT},
    "TEST.AUG": {"RATIOS": several(_POSITIVE, least=0), "AVERAGE": choice(AVERAGES)},
    "TEST.PRECISE_BN": {"NUM_ITER": _COUNT},
    "SOLVER.EMA": {"DECAY": _SHARE},
    "SOLVER.CLIP_GRADIENTS": {
        "CLIP_TYPE": choice(CLIP_TYPES),
        "CLIP_VALUE": _POSITIVE,
        "NORM_TYPE": Expectation(
            "a positive number, or infinity",
            lambda value: value == math.inf or _POSITIVE.holds(value),
        ),
    },
}

# Rules for one optimizer or one schedule: key of SOLVER, its value, rules.
_SOLVER_RULES: list[tuple[str, str, Rules]] = [
    ("OPTIMIZER", "SGD", {"MOMENTUM": _SHARE}),
    (
        "OPTIMIZER",
        "ADAMW",
        {"BETAS": several(_SHARE, length=2, called="two numbers from 0 to below 1")},
    ),
    ("LR_SCHEDULER_NAME", "WarmupMultiStepLR", {"GAMMA": _POSITIVE, "STEPS": _STEPS}),
    ("LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", {"GAMMA": _POSITIVE, "NUM_DECAYS": _COUNT}),
    ("LR_SCHEDULER_NAME", "WarmupCosineLR", {"BASE_LR_END": _WEIGHT}),
    (
        "LR_SCHEDULER_NAME",
        "WarmupPolyLR",
        {"POLY_LR_POWER": _WEIGHT, "POLY_LR_CONSTANT_ENDING": _PROBABILITY},
    ),
]


def _below(section: str, rules: Rules) -> Rules:
    return {f"{section}.{key}": expectation for key, expectation in rules.items()}


def _enabled(section: str) -> Callable[[CfgNode], bool]:
    def is_enabled(cfg: CfgNode) -> bool:
        for name in section.split("."):
            cfg = cfg[name]
        return bool(cfg.ENABLED)

    return is_enabled


def _has_backbone(*names: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: cfg.MODEL.BACKBONE.NAME in names


def _has_head(*names: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: cfg.MODEL.SEM_SEG_HEAD.NAME in names


def _has_classifier(node: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: classifier_node(cfg) == node


def _has_solver(key: str, name: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: cfg.SOLVER[key] == name


def classifier_class(cfg: CfgNode) -> type[PixelClassifier] | None:
    """The class of the config's classifier; None if it names none."""
    architecture, name = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.CLASSIFIER.NAME
    fixed = None
    if architecture in META_ARCH_REGISTRY:
        fixed = getattr(META_ARCH_REGISTRY.get(architecture), "classifier_class", None)
    if fixed is None and name in CLASSIFIER_REGISTRY:
        fixed = CLASSIFIER_REGISTRY.get(name)
    return fixed


def classifier_node(cfg: CfgNode) -> str:
    """The node of the config's classifier below MODEL.CLASSIFIER; "" if it has none."""
    return getattr(classifier_class(cfg), "config_node", "")


@dataclass(frozen=True)
class RuleGroup:
    """Rules of keys that apply under the same condition.

    Attributes:
        rules: rules by full key.
        when: whether the rules apply to a config.
        training: whether they apply in training only.
    """

    rules: Rules
    when: Callable[[CfgNode], bool] = lambda cfg: True
    training: bool = False


RULE_GROUPS: list[RuleGroup] = [
    RuleGroup(RULES),
    RuleGroup(TRAINING_RULES, training=True),
    RuleGroup(_below("MODEL.ENCODER", _ENCODER_RULES), _has_backbone("EncoderBackbone")),
    RuleGroup(_below("MODEL.ENCODER", _VIT_RULES), _has_backbone("VisionTransformerBackbone")),
    *(
        RuleGroup(_below(f"MODEL.{section}", rules), _has_head(head))
        for head, (section, rules) in _HEAD_RULES.items()
    ),
    RuleGroup(_below("MODEL.SEM_SEG_HEAD", _DETECTRON2_HEAD_RULES), _has_head(*_DETECTRON2_HEADS)),
    RuleGroup(_below("MODEL.SEM_SEG_HEAD", _DEEPLAB_RULES), _has_head(*_DETECTRON2_HEADS[1:])),
    RuleGroup(_below("MODEL.RESNETS", _RESNET_RULES), _has_backbone(*_RESNETS, *_FPNS)),
    RuleGroup(_below("MODEL.FPN", _FPN_RULES), _has_backbone(*_FPNS)),
    *(
        RuleGroup(_below(f"MODEL.CLASSIFIER.{node}", rules), _has_classifier(node))
        for node, rules in _CLASSIFIER_RULES.items()
    ),
    *(
        RuleGroup(_below(section, rules), _enabled(section), section.startswith("SOLVER"))
        for section, rules in _RULES_OF_ENABLED.items()
    ),
    RuleGroup(
        {"TEST.AUG.MIN_SIZES": several(_COUNT), "TEST.AUG.MAX_SIZE": _COUNT},
        lambda cfg: cfg.TEST.AUG.ENABLED and not cfg.TEST.AUG.RATIOS,
    ),
    *(
        RuleGroup(_below("SOLVER", rules), _has_solver(key, name), training=True)
        for key, name, rules in _SOLVER_RULES
    ),
]


def expectation_of(key: str) -> Expectation | None:
    """The rule for a key, in configs to which it applies; None if there is none."""
    found = (group.rules[key] for group in reversed(RULE_GROUPS) if key in group.rules)
    return next(found, None)
