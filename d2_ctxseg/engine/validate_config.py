"""Validation of a config before anything is built.

``config_rules`` has the rule of each value. This module applies the rules, checks registered names
and compares keys with each other. Facts that are not known yet, such as the feature maps of a
backbone, are checked by the code that needs them.
"""

import functools
import logging
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from ..classifiers import CLASSIFIER_REGISTRY
from ..config import add_ctxseg_config
from ..data import dataset_names, metadata_of
from ..data.descriptions import described_names
from ..data.registration import has_labels
from ..evaluation.confusion import segmentation_metrics
from ..utils.errors import UserError, counted, shown, suggest
from ..utils.runtime import is_embedded
from .config_rules import RULE_GROUPS, expectation_of

logger = logging.getLogger(__name__)

_ELSEWHERE = " Detectron2's own need Detectron2 (docs/GETTING_STARTED.md)." if is_embedded() else ""
# Tasks whose metrics are known; cityscapesscripts and users' own programs have others.
_TASKS = ("sem_seg", "sem_seg_EMA")


def validate_config(cfg: CfgNode, *, training: bool) -> None:
    """Refuse invalid values. :func:`validate_datasets` checks the datasets.

    Args:
        cfg: the merged config.
        training: also check the keys that only a training needs.

    Raises:
        UserError: the message has each wrong key, its value, what was expected, and for names the
            nearest one.
    """
    # In this order: rules depend on names, and comparisons of values on valid values.
    for find in (
        _unregistered_names,
        partial(_broken_rules, training=training),
        partial(_contradictions, training=training),
    ):
        problems = list(find(cfg))
        if problems:
            raise UserError(_listed(problems))


def validate_values(cfg: CfgNode, keys: Iterable[str]) -> None:
    """Refuse invalid values of the given keys, and ignore all others.

    Raises:
        UserError: as :func:`validate_config`.
    """
    problems = [expectation_of(key).problem(key, value_of(cfg, key)) for key in keys]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise UserError(_listed(found))


def validate_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Refuse datasets that are not registered, lack labels or have other classes than the model.

    Args:
        cfg: a config whose DATASETS.FOLDERS are registered.
        training: whether DATASETS.TRAIN will be trained on.

    Raises:
        UserError: the message has the key and, for a name, the nearest one.
    """
    known = dataset_names()
    if not training:  # to predict, the names and colours of the classes do
        known += described_names(cfg)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in known:
                raise UserError(
                    f"DATASETS.{key}: no dataset is registered as '{name}'.{suggest(name, known)} "
                    "For a dataset of your own, list its YAML file in DATASETS.FOLDERS."
                )
            _check_classes(cfg, name)
    for name in cfg.DATASETS.TRAIN if training else ():
        if not has_labels(name):
            raise UserError(
                f"DATASETS.TRAIN: '{name}' has images without labels, which cannot be trained on. "
                "Name a split that has labels."
            )
    _check_best_metric(cfg)


def all_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """The whole names of a config's keys and sections."""
    keys = []
    for name, value in cfg.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, CfgNode):
            keys += all_keys(value, f"{prefix}{name}.")
    return keys


@functools.cache
def default_config() -> CfgNode:
    """Detectron2's config with this project's keys, all of them at their defaults; frozen."""
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    cfg.freeze()
    return cfg


def _unregistered_names(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    names = {
        "MODEL.META_ARCHITECTURE": (model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        "MODEL.BACKBONE.NAME": (model.BACKBONE.NAME, BACKBONE_REGISTRY),
        "MODEL.SEM_SEG_HEAD.NAME": (model.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY),
        "MODEL.CLASSIFIER.NAME": (model.CLASSIFIER.NAME, CLASSIFIER_REGISTRY),
    }
    if model.CLASSIFIER.NAME == "":
        del names["MODEL.CLASSIFIER.NAME"]
    for key, (name, registry) in names.items():
        known = [registered for registered, _ in registry]
        if name not in known:
            nearest = suggest(name, known)
            yield f"{key}: nothing is registered as {shown(name)}.{nearest}{_ELSEWHERE}"


def _broken_rules(cfg: CfgNode, training: bool) -> Iterator[str]:
    problems: dict[str, str] = {}
    for group in RULE_GROUPS:
        if (group.training and not training) or not group.when(cfg):
            continue
        for key, expectation in group.rules.items():
            problem = expectation.problem(key, value_of(cfg, key))
            if problem is not None:
                problems[key] = problem
    yield from problems.values()
    yield from (problem for key, problem in _left_empty(cfg) if key not in problems)


def _left_empty(cfg: CfgNode) -> Iterator[tuple[str, str]]:
    """Keys without a value, such as empty ones in a YAML file, and the messages."""
    for key in all_keys(default_config()):
        if value_of(cfg, key) is not None or value_of(default_config(), key) is None:
            continue
        allowed = (g.rules[key].holds(None) for g in RULE_GROUPS if key in g.rules)
        if not any(allowed):
            yield key, f"{key} has no value. Write one, or leave the line out for the default."


def _contradictions(cfg: CfgNode, training: bool) -> Iterator[str]:
    yield from _wrong_sizes(cfg)
    yield from _wrong_class_weights(cfg)
    yield from _wrong_device(cfg.MODEL.DEVICE)
    if training:
        yield from _wrong_ignore_value(cfg.MODEL.SEM_SEG_HEAD)
        yield from _wrong_solver(cfg.SOLVER)


def _wrong_sizes(cfg: CfgNode) -> Iterator[str]:
    given, crop, window = cfg.INPUT, cfg.INPUT.CROP, cfg.TEST.SLIDING_WINDOW
    for key in ("RATIO_RANGE", "ASPECT_RANGE"):
        if given[key][0] > given[key][1]:
            yield f"INPUT.{key} is {shown(given[key])}, expected (low, high)."
    low, high = given.RATIO_RANGE
    if (low, high) != (1.0, 1.0) and min(given.MIN_SIZE_TRAIN) == 0:
        yield (
            "INPUT.MIN_SIZE_TRAIN is 0, which leaves images as they are, but INPUT.RATIO_RANGE "
            f"{(low, high)} resizes them. Set INPUT.RATIO_RANGE to (1.0, 1.0)."
        )
    if given.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = given.MIN_SIZE_TRAIN
        if len(sizes) != 2 or sizes[0] > sizes[1]:
            yield (
                f"INPUT.MIN_SIZE_TRAIN is {shown(sizes)}, expected (low, high) with "
                "INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'."
            )
    if crop.ENABLED and cfg.DATASETS.TRAIN:  # Base-Segmentor.yaml leaves the size to others
        yield from _wrong_crop(crop)
    if window.ENABLED and any(s > size for size, s in zip(window.SIZE, window.STRIDE)):
        yield (
            f"TEST.SLIDING_WINDOW.STRIDE {shown(window.STRIDE)} is larger than SIZE "
            f"{shown(window.SIZE)}: pixels between the windows would have no prediction."
        )


def _wrong_crop(crop: CfgNode) -> Iterator[str]:
    size = f"INPUT.CROP.SIZE is {shown(crop.SIZE)}, expected"
    if crop.TYPE.startswith("relative"):
        if max(crop.SIZE) > 1:
            yield f"{size} parts of the image, at most 1.0, with INPUT.CROP.TYPE '{crop.TYPE}'."
    elif not all(isinstance(side, int) for side in crop.SIZE):
        yield f"{size} pixels, integers of at least 1, with INPUT.CROP.TYPE '{crop.TYPE}'."
    elif crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]:
        yield f"{size} [least, greatest] with INPUT.CROP.TYPE '{crop.TYPE}'."


def _wrong_ignore_value(head: CfgNode) -> Iterator[str]:
    if 0 <= head.IGNORE_VALUE < head.NUM_CLASSES:
        yield (
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, which is a class: there are "
            f"{head.NUM_CLASSES} (NUM_CLASSES). Set it to "
            f"{255 if head.NUM_CLASSES <= 255 else 65535}."
        )


def _wrong_class_weights(cfg: CfgNode) -> Iterator[str]:
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    weights = cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS
    if weights and not isinstance(weights, str) and len(weights) != num_classes:
        yield (
            f"MODEL.PIXEL_LOSS.CLASS_WEIGHTS has {counted(len(weights), 'number')}, expected one "
            f"for each class; there are {num_classes} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)."
        )


def _wrong_device(name: str) -> Iterator[str]:
    expected = "expected 'cpu', 'cuda', 'cuda:1' or another device that PyTorch has here"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            # No tensor is created: a context on the GPU would take memory. Without a GPU,
            # setup_config uses the CPU.
            count = torch.cuda.device_count()
            found = count == 0 or (device.index or 0) < count
        else:
            torch.empty(0, device=device)
            found = True
    except Exception:  # of many types, depending on the device
        found = False
    if not found:
        yield f"MODEL.DEVICE is {shown(name)}, {expected}.{suggest(name, ('cpu', 'cuda'))}"


def _wrong_solver(solver: CfgNode) -> Iterator[str]:
    if solver.OPTIMIZER == "SGD" and solver.NESTEROV and solver.MOMENTUM == 0:
        yield "SOLVER.NESTEROV needs a SOLVER.MOMENTUM above 0, but it is 0."
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and not (
        solver.BASE_LR_END <= solver.BASE_LR > 0
    ):
        yield (
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}, expected at most SOLVER.BASE_LR, and "
            f"that above 0 with 'WarmupCosineLR'; it is {solver.BASE_LR}."
        )


def _check_classes(cfg: CfgNode, name: str) -> None:
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    classes = metadata_of(cfg, name).get("stuff_classes")
    if classes and len(classes) != num_classes:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but '{name}' has "
            f"{counted(len(classes), 'class', 'classes')}. Set it to {len(classes)}."
        )


def _check_best_metric(cfg: CfgNode) -> None:
    """Refuse an unknown metric of this project's tasks; warn of other unknown metrics."""
    metric = cfg.TEST.BEST_METRIC
    if not metric or not cfg.DATASETS.TEST:
        return
    known = _metrics(cfg)
    if metric in known:
        return
    message = f"TEST.BEST_METRIC: there is no metric '{metric}'.{suggest(metric, known)}"
    if metric.startswith(tuple(f"{task}/" for task in _TASKS)):
        raise UserError(f"{message} model_best.pth would never be written.")
    logger.warning(
        "%s Unless an evaluator of yours has it, there will be no model_best.pth.", message
    )


def _metrics(cfg: CfgNode) -> list[str]:
    """The names of the metrics of the first test dataset."""
    classes = metadata_of(cfg, cfg.DATASETS.TEST[0]).get("stuff_classes") or []
    nothing = np.zeros((len(classes) + 1,) * 2)
    names = segmentation_metrics(nothing, classes, nothing if cfg.TEST.BOUNDARY_IOU else None)
    tasks = _TASKS if cfg.SOLVER.EMA.ENABLED else _TASKS[:1]
    return [f"{task}/{name}" for task in tasks for name in names]


def value_of(cfg: CfgNode, key: str) -> object:
    """The value or section of a key's whole name."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _listed(problems: Iterable[str]) -> str:
    problems = list(problems)
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} config values are wrong:\n  " + "\n  ".join(problems)
