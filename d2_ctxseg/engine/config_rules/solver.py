"""Rules for the keys of the training: SOLVER and DATALOADER."""

from ..expectations import Expectation, choice, optional, several
from ..lr_scheduler import SCHEDULES, WARMUP_METHODS
from ..optimizer import OPTIMIZERS
from .values import COUNT, POSITIVE, PROBABILITY, SHARE, SIZE, WEIGHT, Rules

_STEPS = Expectation(
    "a list of increasing integers of at least 0",
    lambda value: several(SIZE, least=0).holds(value) and list(value) == sorted(set(value)),
)

TRAINING_RULES: Rules = {
    "DATALOADER.NUM_WORKERS": SIZE,
    "DATALOADER.SAMPLER_TRAIN": choice(("TrainingSampler",)),
    "SOLVER.OPTIMIZER": choice(OPTIMIZERS),
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.ACCUMULATION_STEPS": COUNT,
    "SOLVER.REFERENCE_WORLD_SIZE": SIZE,
    "SOLVER.MAX_ITER": COUNT,
    "SOLVER.CHECKPOINT_PERIOD": COUNT,
    "SOLVER.BASE_LR": WEIGHT,
    "SOLVER.BACKBONE_MULTIPLIER": WEIGHT,
    "SOLVER.HEAD_MULTIPLIER": WEIGHT,
    "SOLVER.LAYER_DECAY": POSITIVE,
    "SOLVER.WEIGHT_DECAY": WEIGHT,
    "SOLVER.WEIGHT_DECAY_NORM": optional(WEIGHT),
    "SOLVER.WEIGHT_DECAY_BIAS": optional(WEIGHT),
    "SOLVER.WEIGHT_DECAY_EMBED": optional(WEIGHT),
    "SOLVER.BIAS_LR_FACTOR": optional(WEIGHT),
    "SOLVER.AMP.PRECISION": choice(("float16", "bfloat16")),
    "SOLVER.LR_SCHEDULER_NAME": choice(SCHEDULES),
    "SOLVER.MIN_LR": WEIGHT,
    "SOLVER.WARMUP_METHOD": choice(WARMUP_METHODS),
    "SOLVER.WARMUP_FACTOR": WEIGHT,
    "SOLVER.WARMUP_ITERS": SIZE,
}

#: Rules that hold for one optimizer or one schedule: (key of SOLVER, its value, rules).
SOLVER_RULES: list[tuple[str, str, Rules]] = [
    ("OPTIMIZER", "SGD", {"MOMENTUM": SHARE}),
    (
        "OPTIMIZER",
        "ADAMW",
        {"BETAS": several(SHARE, length=2, called="two numbers from 0 to below 1")},
    ),
    ("LR_SCHEDULER_NAME", "WarmupMultiStepLR", {"GAMMA": POSITIVE, "STEPS": _STEPS}),
    ("LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", {"GAMMA": POSITIVE, "NUM_DECAYS": COUNT}),
    ("LR_SCHEDULER_NAME", "WarmupCosineLR", {"BASE_LR_END": WEIGHT}),
    (
        "LR_SCHEDULER_NAME",
        "WarmupPolyLR",
        {"POLY_LR_POWER": WEIGHT, "POLY_LR_CONSTANT_ENDING": PROBABILITY},
    ),
]
