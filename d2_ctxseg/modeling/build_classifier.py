"""Builds the classifier of a config."""

import inspect

from torch import nn

from ..classifiers import CLASSIFIER_REGISTRY, PixelClassifier
from ..utils.errors import UserError, counted, suggest


def choose_classifier(cfg, fixed: type[PixelClassifier] | None) -> type[PixelClassifier]:
    """The classifier class of a config.

    Args:
        cfg: MODEL.CLASSIFIER.NAME is a registered name or "".
        fixed: the class of the meta-architecture; None if MODEL.CLASSIFIER.NAME decides.

    Raises:
        UserError: the meta-architecture and NAME name different classes, neither names one, or the
            name is not registered.
    """
    name, architecture = cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.META_ARCHITECTURE
    if fixed is None:
        return _registered(name, architecture)
    if name and name != fixed.__name__:
        raise UserError(
            f"MODEL.META_ARCHITECTURE '{architecture}' has the classifier '{fixed.__name__}', but "
            f"MODEL.CLASSIFIER.NAME is '{name}'. Set MODEL.CLASSIFIER.NAME to '' for the former, "
            "or MODEL.META_ARCHITECTURE to 'PixelClassifierSegmentor' for the latter."
        )
    return fixed


def build_classifier(
    cfg, predictor: nn.Conv2d, classifier_class: type[PixelClassifier] | None = None
) -> PixelClassifier:
    """The classifier of a config, initialised with a head's ``predictor``.

    Args:
        cfg: MODEL.CLASSIFIER has dropout, interpolation and the classifier's own options.
        predictor: the 1x1 convolution that was taken out of the head.
        classifier_class: the class; None: the one registered as MODEL.CLASSIFIER.NAME.

    Raises:
        UserError: an unknown classifier or option, or a value that the classifier refuses.
    """
    if classifier_class is None:
        classifier_class = choose_classifier(cfg, None)
    node = classifier_class.config_node
    options = {key.lower(): value for key, value in cfg.MODEL.CLASSIFIER.get(node, {}).items()}
    options.update(_listed_options(cfg.MODEL.CLASSIFIER.OPTIONS, classifier_class))
    where = f"MODEL.CLASSIFIER.{node}" if node else "MODEL.CLASSIFIER.OPTIONS"
    arguments = {
        "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        "align_corners": cfg.MODEL.CLASSIFIER.ALIGN_CORNERS,
        "dropout": cfg.MODEL.CLASSIFIER.DROPOUT,
        "predictor": predictor,
        **options,
    }
    _check_takes(classifier_class, arguments)
    try:
        return classifier_class(predictor.in_channels, predictor.out_channels, **arguments)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _registered(name: str, architecture: str) -> type[PixelClassifier]:
    names = [registered for registered, _ in CLASSIFIER_REGISTRY]
    if not name:
        raise UserError(
            f"MODEL.META_ARCHITECTURE '{architecture}' takes the classifier of "
            f"MODEL.CLASSIFIER.NAME, which is empty. Set it to one of {', '.join(names)}."
        )
    if name not in CLASSIFIER_REGISTRY:
        raise UserError(
            f"MODEL.CLASSIFIER.NAME: no classifier '{name}'; there are {', '.join(names)}."
            f"{suggest(name, names)} Register your own with CLASSIFIER_REGISTRY.register()."
        )
    return CLASSIFIER_REGISTRY.get(name)


def _listed_options(options: list, classifier_class: type[PixelClassifier]) -> dict[str, object]:
    """[name, value, name, value, ...] as keyword arguments."""
    if len(options) % 2:
        raise UserError(
            f"MODEL.CLASSIFIER.OPTIONS has {counted(len(options), 'entry', 'entries')}, expected "
            "pairs: [name, value, name, value, ...]."
        )
    known = _arguments(classifier_class)
    for name in options[::2]:
        if name not in known:
            raise UserError(
                f"MODEL.CLASSIFIER.OPTIONS: {classifier_class.__name__} has no option '{name}'; "
                f"it has {', '.join(known)}.{suggest(str(name), known)}"
            )
    return dict(zip(options[::2], options[1::2]))


def _arguments(classifier_class: type[PixelClassifier]) -> list[str]:
    """The constructor's arguments, and those of base classes that get its ``**options``."""
    names = [f"loss_weight_{name}" for name in classifier_class.default_loss_weights]
    for base in classifier_class.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            break
    return [name for name in dict.fromkeys(names) if name != "self"]


def _check_takes(classifier_class: type[PixelClassifier], arguments: dict) -> None:
    """Refuse a class whose constructor does not take the options of its config node."""
    known = _arguments(classifier_class)
    refused = [name for name in arguments if name not in known]
    if refused:
        raise UserError(
            f"{classifier_class.__name__} takes no argument '{refused[0]}'. Its constructor must "
            "take the arguments of PixelClassifier, 'predictor', and the keys of "
            f"MODEL.CLASSIFIER.{classifier_class.config_node or '<config_node>'}. Let it take "
            "**options and pass them on to its base class, or set config_node = '' in the class "
            "if it has none of these keys. See docs/EXTENDING.md."
        )
