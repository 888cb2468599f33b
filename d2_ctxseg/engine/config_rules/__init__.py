"""The rules for config values, which ``validate_config`` applies.

Each module has the tables of one area; this one says when a table applies. Types alone need no
rule, because Detectron2's config keeps the type of a key's default, except for None.
"""

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ...classifiers import CLASSIFIER_REGISTRY, PixelClassifier
from ..expectations import Expectation, several
from .classifiers import CLASSIFIER_RULES
from .detectron2_models import (
    DEEPLAB_RULES,
    DETECTRON2_HEAD_RULES,
    DETECTRON2_HEADS,
    FPN_RULES,
    FPNS,
    RESNET_RULES,
    RESNETS,
)
from .encoders import ENCODER_RULES, VIT_RULES
from .general import RULES, RULES_OF_ENABLED
from .heads import HEAD_RULES
from .solver import SOLVER_RULES, TRAINING_RULES
from .values import COUNT, Rules


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
    """The class of the config's classifier; None if it has none."""
    architecture, name = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.CLASSIFIER.NAME
    fixed = None
    if architecture in META_ARCH_REGISTRY:
        fixed = getattr(META_ARCH_REGISTRY.get(architecture), "classifier_class", None)
    if fixed is None and name in CLASSIFIER_REGISTRY:
        fixed = CLASSIFIER_REGISTRY.get(name)
    return fixed


def classifier_node(cfg: CfgNode) -> str:
    """The section of the config's classifier below MODEL.CLASSIFIER; "" if it has none."""
    return getattr(classifier_class(cfg), "config_node", "")


@dataclass(frozen=True)
class RuleGroup:
    """Rules that apply under a common condition.

    Attributes:
        rules: full key -> rule.
        when: a function that tells whether the rules apply to a config.
        training: whether the rules apply only to training.
    """

    rules: Rules
    when: Callable[[CfgNode], bool] = lambda cfg: True
    training: bool = False


RULE_GROUPS: list[RuleGroup] = [
    RuleGroup(RULES),
    RuleGroup(TRAINING_RULES, training=True),
    RuleGroup(_below("MODEL.ENCODER", ENCODER_RULES), _has_backbone("EncoderBackbone")),
    RuleGroup(_below("MODEL.ENCODER", VIT_RULES), _has_backbone("VisionTransformerBackbone")),
    *(
        RuleGroup(_below(f"MODEL.{section}", rules), _has_head(head))
        for head, (section, rules) in HEAD_RULES.items()
    ),
    RuleGroup(_below("MODEL.SEM_SEG_HEAD", DETECTRON2_HEAD_RULES), _has_head(*DETECTRON2_HEADS)),
    RuleGroup(_below("MODEL.SEM_SEG_HEAD", DEEPLAB_RULES), _has_head(*DETECTRON2_HEADS[1:])),
    RuleGroup(_below("MODEL.RESNETS", RESNET_RULES), _has_backbone(*RESNETS, *FPNS)),
    RuleGroup(_below("MODEL.FPN", FPN_RULES), _has_backbone(*FPNS)),
    *(
        RuleGroup(_below(f"MODEL.CLASSIFIER.{node}", rules), _has_classifier(node))
        for node, rules in CLASSIFIER_RULES.items()
    ),
    *(
        RuleGroup(_below(section, rules), _enabled(section), section.startswith("SOLVER"))
        for section, rules in RULES_OF_ENABLED.items()
    ),
    RuleGroup(
        {"TEST.AUG.MIN_SIZES": several(COUNT), "TEST.AUG.MAX_SIZE": COUNT},
        lambda cfg: cfg.TEST.AUG.ENABLED and not cfg.TEST.AUG.RATIOS,
    ),
    *(
        RuleGroup(_below("SOLVER", rules), _has_solver(key, name), training=True)
        for key, name, rules in SOLVER_RULES
    ),
]


def expectation_of(key: str) -> Expectation | None:
    """The rule for a key in the configs that it applies to; None if there is no rule."""
    found = (group.rules[key] for group in reversed(RULE_GROUPS) if key in group.rules)
    return next(found, None)
