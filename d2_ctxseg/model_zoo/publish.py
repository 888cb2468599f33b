"""Publish a run as a small file of weights, an index entry and a model card."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import copy_temperatures, load_weights, strip_training_only
from ..engine.config_files import get_config_file
from ..engine.setup import setup_config
from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write
from .half_precision import TOLERANCE, Agreement, compare_models, half_precision
from .model_card import Recipe, draw_model_card
from .trained_models import TrainedModel, write_trained_model

MEANS = ("mIoU", "fwIoU", "mACC", "pACC")
# Keys that affect predictions ...
_PREDICTION = ("MODEL.", "INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
_PREDICTION += ("TEST.SLIDING_WINDOW.", "DATASETS.TRAIN", "DATASETS.TEST")
# ... except for the source of the weights and the machine's way to compute.
_MACHINE = ("MODEL.WEIGHTS", "MODEL.ENCODER.WEIGHTS", "MODEL.DEVICE", "MODEL.CHANNELS_LAST")
_MACHINE += ("MODEL.COMPILE", "MODEL.SYNC_BN", "MODEL.ENCODER.ACTIVATION_CHECKPOINTING")
# Keys that depend on the machine and do not belong to the recipe.
_NOT_IN_RECIPE = ("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS", "DATALOADER.NUM_WORKERS")
_NOT_IN_RECIPE += ("DATASETS.DESCRIPTIONS",)


@dataclass(frozen=True)
class Publication:
    """The result of :func:`publish_run`.

    Attributes:
        model: the index entry.
        card: path of the model card.
        removed: names of the removed submodules.
        agreement: the agreement of the published model with the original.
    """

    model: TrainedModel
    card: Path
    removed: list[str]
    agreement: Agreement


def publish_run(
    run: Path,
    name: str,
    folder: Path,
    *,
    weights: str = "model_final.pth",
    commit: str = "",
    data_terms: str = "",
    max_megabytes: float = 12,
) -> Publication:
    """Write the weights of a run, its index entry and its model card into a folder.

    A model of the same name is replaced. Before anything is written, the file is read again and
    its model is compared with the run's model (``TOLERANCE``). Temperatures that were fitted to the
    weights are copied: half precision changes the logits too little to need others.

    Args:
        run: the output folder of train_net.py, with config.yaml, evaluation.json and weights.
        name: the name of the config to publish the run for. Where the run's config differs in a way
            that affects predictions, the difference is stored as the entry's ``opts``.
        folder: the folder of the trained models.
        weights: name of a checkpoint in the run's folder, with scores in evaluation.json.
        commit: the commit of this project that trained the run; "" if unknown.
        data_terms: a sentence about the terms of use of the training data.
        max_megabytes: the largest size of the file of weights.

    Raises:
        MissingFileError: the run lacks one of the files.
        UserError: the config does not exist, evaluation.json has no scores for these weights, the
            file is too large, or its predictions differ too much.
    """
    run, folder, name = Path(run), Path(folder), name.removesuffix(".yaml")
    results = read_results(run, weights)
    cfg = _setup(str(_require(run / "config.yaml")))
    changes = changed_keys(_setup(get_config_file(name)), cfg)
    opts = {key: value for key, value in changes.items() if _changes_predictions(key)}

    original, removed = _load_original(run, weights)
    content = safetensors.torch.save(half_precision(original), {"format": "pt", "config": name})
    if len(content) > max_megabytes * 1e6:
        raise UserError(
            f"The weights of '{name}' are {len(content) / 1e6:.1f} MB in half precision, more than "
            f"--max-megabytes {max_megabytes:g}."
        )
    agreement = _check(content, name, opts, original)

    model = _index_entry(name, content, cfg, results, opts)
    write_trained_model(model, content, folder)
    copy_temperatures(run / weights, folder / model.file)
    changes = {key: value for key, value in changes.items() if key not in _NOT_IN_RECIPE}
    recipe = Recipe(changes, weights, commit, data_terms)
    card = folder / f"MODEL_CARD_{_flat(name)}.md"
    with atomic_write(card) as file:
        file.write(draw_model_card(model, cfg, recipe, results, agreement))
    return Publication(model, card, removed, agreement)


def read_results(run: Path, weights: str) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of a checkpoint in the run's evaluation.json: {dataset: {task: {metric: value}}}.

    Args:
        run: the output folder of train_net.py.
        weights: name of the checkpoint.

    Raises:
        MissingFileError: evaluation.json does not exist.
        UserError: it cannot be read, or has no scores for these weights.
    """
    path = _require(run / "evaluation.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' cannot be read: {error}") from error
    # Keys are paths on the machine of the evaluation. The latest evaluation is used.
    found = [datasets for key, datasets in content.items() if Path(key).name == weights]
    if not found:
        known = ", ".join(Path(key).name for key in content) or "nothing"
        raise UserError(
            f"'{path}' has no scores for '{weights}', only for {known}. Choose one with --weights, "
            f"or evaluate '{weights}' with d2-ctxseg eval --run '{run}'."
        )
    return found[-1]


def changed_keys(before: CfgNode, after: CfgNode) -> dict:
    """Key -> value in ``after``, for the keys whose values differ between two configs."""
    old, new = _flatten(before), _flatten(after)
    return {key: value for key, value in new.items() if old.get(key) != value}


def _changes_predictions(key: str) -> bool:
    return key.startswith(_PREDICTION) and key not in _MACHINE


def _setup(config_file: str, opts: Sequence = (), for_inference: bool = False) -> CfgNode:
    return setup_config(config_file, [*opts, "MODEL.DEVICE", "cpu"], for_inference=for_inference)


def _load_original(run: Path, weights: str) -> tuple[nn.Module, list[str]]:
    """The run's model without modules that only training needs, and the names of those."""
    model = build_model(_setup(str(run / "config.yaml"), for_inference=True)).eval()
    load_weights(model, str(_require(run / weights)))
    return model, strip_training_only(model)


def _check(content: bytes, name: str, opts: dict, original: nn.Module) -> Agreement:
    """Load the published weights as users do, and compare the model with the original."""
    words = [word for pair in opts.items() for word in pair]
    published = build_model(_setup(get_config_file(name), words, for_inference=True)).eval()
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.safetensors"
        path.write_bytes(content)
        load_weights(published, str(path))
    agreement = compare_models(original, published)
    if not agreement.difference <= TOLERANCE:
        raise UserError(
            f"In half precision the logits of '{name}' differ from the original's by "
            f"{agreement.difference:.3g} of their standard deviation on average, expected at most "
            f"{TOLERANCE}. Nothing was written."
        )
    return agreement


def _index_entry(
    name: str, content: bytes, cfg: CfgNode, results: dict, opts: dict
) -> TrainedModel:
    means = {
        dataset: {task: _means(metrics) for task, metrics in tasks.items()}
        for dataset, tasks in results.items()
    }
    return TrainedModel(
        name=name,
        file=f"{_flat(name)}.safetensors",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        trained_on=list(cfg.DATASETS.TRAIN),
        scores=means,
        opts=opts,
    )


def _means(metrics: dict[str, float]) -> dict[str, float]:
    return {key: round(metrics[key], 2) for key in MEANS if metrics.get(key) is not None}


def _flat(name: str) -> str:
    """The name of a config as a file name."""
    return name.replace("/", "_")


def _flatten(cfg: CfgNode, prefix: str = "") -> dict:
    values = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            values |= _flatten(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = list(value) if isinstance(value, tuple) else value
    return values


def _require(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(
            f"'{path}' does not exist, expected the OUTPUT_DIR of a finished training with "
            "config.yaml, evaluation.json and the weights."
        )
    return path
