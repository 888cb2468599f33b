"""From config to classifier."""

import inspect

from torch import nn

from ..classifiers import CLASSIFIER_REGISTRY, PixelClassifier
from ..utils.errors import UserError, suggest

# The config node, under MODEL.CLASSIFIER, of the options of each classifier of this project. Its
# keys are the names of the constructor's arguments, in capitals.
_OPTION_NODES = {
    "ContextAwareClassifier": "CONTEXT_AWARE",
    "ExplicitClassClassifier": "EXPLICIT_CLASS",
    "PrototypeClassifier": "PROTOTYPE",
}


def build_classifier(
    cfg, predictor: nn.Conv2d, classifier_class: type[PixelClassifier] | None = None
) -> PixelClassifier:
    """The classifier of a config, starting from a head's ``predictor``.

    Args:
        cfg: its MODEL.CLASSIFIER says dropout, interpolation and the classifier's own options.
        predictor: the 1x1 convolution that was taken out of the head.
        classifier_class: the class; the one registered as MODEL.CLASSIFIER.NAME if None.

    Raises:
        UserError: no such classifier, no such option, or a value that the classifier refuses.
    """
    if classifier_class is None:
        classifier_class = _registered(cfg.MODEL.CLASSIFIER.NAME)
    node = _OPTION_NODES.get(classifier_class.__name__)
    options = {key.lower(): value for key, value in cfg.MODEL.CLASSIFIER.get(node, {}).items()}
    if "accumulation_steps" in inspect.signature(classifier_class).parameters:
        options["accumulation_steps"] = cfg.SOLVER.ACCUMULATION_STEPS
    options.update(_listed_options(cfg.MODEL.CLASSIFIER.OPTIONS, classifier_class))
    where = f"MODEL.CLASSIFIER.{node}" if node else "MODEL.CLASSIFIER.OPTIONS"
    try:
        return classifier_class(
            predictor.in_channels,
            predictor.out_channels,
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            align_corners=cfg.MODEL.CLASSIFIER.ALIGN_CORNERS,
            dropout=cfg.MODEL.CLASSIFIER.DROPOUT,
            predictor=predictor,
            **options,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _registered(name: str) -> type[PixelClassifier]:
    if name not in CLASSIFIER_REGISTRY:
        names = [registered for registered, _ in CLASSIFIER_REGISTRY]
        raise UserError(
            f"MODEL.CLASSIFIER.NAME: no classifier '{name}'; there are {', '.join(names)}."
            f"{suggest(name, names)} Your own is registered with CLASSIFIER_REGISTRY.register()."
        )
    return CLASSIFIER_REGISTRY.get(name)


def _listed_options(options: list, classifier_class: type[PixelClassifier]) -> dict[str, object]:
    """[name, value, name, value, ...] as keyword arguments."""
    if len(options) % 2:
        raise UserError(
            f"MODEL.CLASSIFIER.OPTIONS has {len(options)} entries, expected pairs: "
            "[name, value, name, value, ...]."
        )
    known = list(inspect.signature(classifier_class).parameters)
    for name in options[::2]:
        if name not in known:
            raise UserError(
                f"MODEL.CLASSIFIER.OPTIONS: {classifier_class.__name__} has no option '{name}'; "
                f"it has {', '.join(known)}.{suggest(str(name), known)}"
            )
    return dict(zip(options[::2], options[1::2]))
