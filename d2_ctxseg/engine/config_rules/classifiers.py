"""Rules for the keys of each classifier."""

from ...classifiers.adaptive_parts import ORACLE_CONTEXTS, SIMILARITIES
from ...classifiers.context_aware import ENTROPY_SOURCES
from ...classifiers.gaussian_mixture import LEARNING
from ...classifiers.learned_prototype import SCORES
from ...classifiers.mixture_density import CLASS_SCORES
from ...classifiers.mixture_estimation import COVARIANCES, E_STEPS
from ...classifiers.prototype import ASSIGNMENTS, SYNCHRONIZATIONS
from ...classifiers.prototype_similarity import DISTANCES
from ...classifiers.semantic_spatial import DIVISORS, PROTOTYPES, RESPONSE_WEIGHTINGS
from ...losses.boundary import BOUNDARIES
from ...losses.distillation import DISTILLATION_TARGETS, DISTILLATION_WEIGHTINGS
from ...losses.mask_losses import MASK_LOSSES
from ..expectations import choice, optional
from .values import COUNT, POSITIVE, PROBABILITY, SIZE, WEIGHT, Rules

#: Section below MODEL.CLASSIFIER -> rules for its keys.
CLASSIFIER_RULES: dict[str, Rules] = {
    "CONTEXT_AWARE": {
        "SIMILARITY": choice(SIMILARITIES),
        "SCALE": POSITIVE,
        "LOSS_WEIGHT_REFINED": WEIGHT,
        "LOSS_WEIGHT_VANILLA": WEIGHT,
        "LOSS_WEIGHT_ORACLE": WEIGHT,
        "LOSS_WEIGHT_KL": WEIGHT,
        "DISTILLATION_TARGET": choice(DISTILLATION_TARGETS),
        "DISTILLATION_WEIGHTING": choice(DISTILLATION_WEIGHTINGS),
        "ENTROPY_SOURCE": choice(ENTROPY_SOURCES),
        "ORACLE_CONTEXT": choice(ORACLE_CONTEXTS),
    },
    "PROTOTYPE": {
        "NUM_PROTOTYPES": COUNT,
        "MOMENTUM": PROBABILITY,
        "SINKHORN_ITERATIONS": COUNT,
        "SINKHORN_EPSILON": POSITIVE,
        "ASSIGNMENT": choice(ASSIGNMENTS),
        "TEMPERATURE": POSITIVE,
        "DISTANCE": choice(DISTANCES),
        "SYNCHRONIZATION": choice(SYNCHRONIZATIONS),
        "LOSS_WEIGHT_SEM_SEG": WEIGHT,
        "LOSS_WEIGHT_PPC": WEIGHT,
        "LOSS_WEIGHT_PPD": WEIGHT,
    },
    "SEMANTIC_SPATIAL": {
        "PROTOTYPES": choice(PROTOTYPES),
        "SIMILARITY": choice(SIMILARITIES),
        "SCALE": POSITIVE,
        "SEMANTIC_ORACLE_CONTEXT": choice(ORACLE_CONTEXTS),
        "SPATIAL_ORACLE_CONTEXT": choice(ORACLE_CONTEXTS),
        "RESPONSE_WEIGHTING": choice(RESPONSE_WEIGHTINGS),
        "BOUNDARY": choice(BOUNDARIES),
        "BOUNDARY_FRAME": SIZE,
        "BOUNDARY_DILATION": SIZE,
        "SEM_SEG_DIVISOR": choice(DIVISORS),
        "LOSS_WEIGHT_SEM_SEG": WEIGHT,
        "LOSS_WEIGHT_VANILLA": WEIGHT,
        "LOSS_WEIGHT_ORACLE": WEIGHT,
        "LOSS_WEIGHT_DICE": WEIGHT,
        "LOSS_WEIGHT_DICE_ORACLE": WEIGHT,
        "LOSS_WEIGHT_RESPONSE": WEIGHT,
        "LOSS_WEIGHT_SEMANTIC": WEIGHT,
        "LOSS_WEIGHT_SPATIAL": WEIGHT,
    },
    "LEARNED_PROTOTYPE": {"NUM_PROTOTYPES": COUNT, "SCORE": choice(SCORES)},
    "GAUSSIAN_MIXTURE": {
        "NUM_COMPONENTS": COUNT,
        "EMBEDDING_CHANNELS": optional(COUNT),
        "MEMORY_SIZE": SIZE,
        "MAX_SAMPLES": COUNT,
        "MEAN_MOMENTUM": PROBABILITY,
        "SCALE_MOMENTUM": PROBABILITY,
        "REFIT_INTERVAL": COUNT,
        "CLASS_SCORE": choice(CLASS_SCORES),
        "E_STEP": choice(E_STEPS),
        "SINKHORN_ITERATIONS": COUNT,
        "SINKHORN_EPSILON": POSITIVE,
        "COVARIANCE": choice(COVARIANCES),
        "LEARNING": choice(LEARNING),
        "SEM_SEG_DIVISOR": choice(DIVISORS),
        "LOSS_WEIGHT_SEM_SEG": WEIGHT,
        "LOSS_WEIGHT_CONTRAST": WEIGHT,
    },
    "FEATURE_BANK": {
        "SIZE": COUNT,
        "NUM_NEIGHBORS": COUNT,
        "TEMPERATURE": POSITIVE,
        "PRIOR": WEIGHT,
    },
    "EXPLICIT_CLASS": {
        "CHANNELS": optional(COUNT),
        "NUM_HEADS": COUNT,
        "MLP_RATIO": POSITIVE,
        "POOL_RATIO": POSITIVE,
        "MASK_LOSS": choice(MASK_LOSSES),
        "LOSS_WEIGHT_MASK": WEIGHT,
        "LOSS_WEIGHT_DICE": WEIGHT,
    },
}
