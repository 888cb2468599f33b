"""Publish trained models on the Hugging Face Hub with weights, config and model card."""

import os
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import safetensors.torch
import yaml
from torch import nn

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import load_weights, strip_training_only
from ..data import metadata_of
from ..data.descriptions import classes_only
from ..deployment.segmentor import Segmentor
from ..engine.calibration import with_fitted_temperatures
from ..engine.cost import read_cost
from ..engine.run_folder import IMPORTS_FOLDER, place_in_run
from ..utils.errors import UserError
from ..utils.files import atomic_write
from ..utils.own_modules import copy_own_modules, is_file_name
from .hub_client import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, require_hub, upload
from .load import load_segmentor, trained_config
from .model_card import table_of_classes, table_of_means
from .publish import MEANS, read_results

TEMPLATE = Path(__file__).resolve().parent / "hub_card.md"


def from_pretrained(repo_id: str, **options) -> Segmentor:
    """Load a model from the Hub, or from a folder that :func:`save_pretrained` wrote.

    This is :func:`d2_ctxseg.load_segmentor` under the name that other libraries use.

    Args:
        repo_id: "user/model", or a folder.
        options: keyword arguments of :func:`d2_ctxseg.load_segmentor`.

    Raises:
        MissingFileError, UserError: see :func:`d2_ctxseg.load_segmentor`.
    """
    return load_segmentor(repo_id, **options)


def push_to_hub(
    source: str | os.PathLike,
    repo_id: str,
    *,
    weights: str | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a segmentor of d2_ctxseg",
    license: str = "",
    commit: str = "",
    data_terms: str = "",
) -> str:
    """Upload a trained model to the Hugging Face Hub, with a model card generated from its run.

    Args:
        source, weights: see :func:`d2_ctxseg.load_segmentor`; usually the folder of a training.
        repo_id: "user/model"; the repository is created if it does not exist.
        private: whether a new repository is private.
        token: a token with write access; None: the token of ``hf auth login``.
        commit_message: commit message of the upload.
        license, commit, data_terms: text of the model card, see :func:`save_pretrained`.

    Returns:
        The URL of the model's page.

    Raises:
        MissingFileError: see :func:`save_pretrained`.
        UserError: huggingface_hub is not installed, nobody is logged in, the Hub rejects the
            upload, or :func:`save_pretrained` fails.
    """
    require_hub()
    with TemporaryDirectory() as temporary:
        save_pretrained(
            source,
            temporary,
            weights=weights,
            repo_id=repo_id,
            license=license,
            commit=commit,
            data_terms=data_terms,
        )
        return upload(
            Path(temporary), repo_id, private=private, token=token, commit_message=commit_message
        )


def save_pretrained(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    weights: str | None = None,
    repo_id: str = "",
    license: str = "",
    commit: str = "",
    data_terms: str = "",
) -> Path:
    """Write the files that inference with a model needs to a folder.

    ``model.safetensors`` holds the weights without the modules that only training needs.
    ``config.yaml`` refers to no other file, contains fitted temperatures, and no paths of this
    machine. ``README.md`` is the model card. The files of IMPORTS are copied to ``imports/``; from
    the Hub they are run only with ``trust_remote_code``.

    Args:
        source, weights: see :func:`d2_ctxseg.load_segmentor`.
        folder: the output folder, created if needed; existing files are replaced.
        repo_id: "user/model" for the model card; "": the folder's name.
        license: the Hub's identifier of the license of the weights, such as "apache-2.0"; "": the
            card states no license.
        commit: the commit of this project that trained the model; "" if unknown.
        data_terms: a sentence about the terms of use of the training data.

    Returns:
        The folder.

    Raises:
        MissingFileError, UserError: see :func:`d2_ctxseg.load_segmentor`.
    """
    cfg = with_fitted_temperatures(trained_config(source, weights, ["MODEL.DEVICE", "cpu"]))
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    strip_training_only(model)
    folder = Path(folder)
    # The tensors are copied, because safetensors does not support shared memory.
    state = {key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS_FILE, "wb") as file:
        file.write(safetensors.torch.save(state, {"format": "pt"}))
    copy_own_modules(cfg.IMPORTS, folder / IMPORTS_FOLDER)
    with atomic_write(folder / CONFIG_FILE) as file:
        file.write(portable_config(cfg).dump())
    facts = {"repo_id": repo_id or folder.resolve().name, "license": license, "commit": commit}
    card = draw_hub_card(cfg, model, Path(cfg.MODEL.WEIGHTS), data_terms=data_terms, **facts)
    with atomic_write(folder / CARD_FILE) as file:
        file.write(card)
    return folder


def portable_config(cfg: CfgNode) -> CfgNode:
    """A copy of a config for inference, without paths of this machine."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.DESCRIPTIONS = classes_only(cfg)
    cfg.DATASETS.FOLDERS = []
    cfg.IMPORTS = [place_in_run(place) for place in cfg.IMPORTS]
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ENCODER.WEIGHTS = ""
    cfg.OUTPUT_DIR = "./output"
    return cfg


def draw_hub_card(
    cfg: CfgNode,
    model: nn.Module,
    weights: Path,
    *,
    repo_id: str,
    license: str = "",
    commit: str = "",
    data_terms: str = "",
) -> str:
    """The model card as Markdown, with the front matter that the Hub reads.

    Args:
        cfg: the config of the model.
        model: the model without the modules that only training needs.
        weights: the checkpoint; evaluation.json and cost.json beside it are used if they exist.
        repo_id, license, commit, data_terms: see :func:`save_pretrained`.
    """
    dataset = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]
    classes = list(metadata_of(cfg, dataset).get("stuff_classes") or [])
    front_matter = {
        "library_name": "d2_ctxseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "detectron2", "pytorch"],
    }
    if license:
        front_matter["license"] = license
    has_encoder = cfg.MODEL.BACKBONE.NAME == "EncoderBackbone"
    fields = {
        "front_matter": yaml.safe_dump(front_matter, sort_keys=False),
        "name": repo_id.rpartition("/")[2],
        "repo_id": repo_id,
        "arguments": ", trust_remote_code=True" if cfg.IMPORTS else "",
        "code": _code(cfg),
        "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "classes": ", ".join(classes),
        "architecture": f"`{cfg.MODEL.META_ARCHITECTURE}`",
        "backbone": f"`{cfg.MODEL.ENCODER.NAME if has_encoder else cfg.MODEL.BACKBONE.NAME}`",
        "head": _head(cfg),
        "iterations": cfg.SOLVER.MAX_ITER,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "optimizer": cfg.SOLVER.OPTIMIZER,
        "rate": f"{cfg.SOLVER.BASE_LR:g}",
        "commit": f"`{commit}`" if commit else "not recorded",
        "trained_on": "`, `".join(cfg.DATASETS.TRAIN) or "not recorded",
        "data_terms": data_terms or "The terms of use of their publishers apply.",
        "scores": _scores(weights, classes),
        "cost": _cost(model, weights.parent),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(fields)


def _code(cfg: CfgNode) -> str:
    if not cfg.IMPORTS:
        return ""
    files = [Path(place).name for place in cfg.IMPORTS if is_file_name(place)]
    packages = [place for place in cfg.IMPORTS if not is_file_name(place)]
    told = [
        f"`{IMPORTS_FOLDER}/{name}`: Python code that the model needs, which runs when it is "
        "loaded: read it before you trust it."
        for name in files
    ]
    if packages:
        told.append(f"The model needs the Python modules `{'`, `'.join(packages)}` as well.")
    return "\n" + "\n".join(told) + "\n"


def _head(cfg: CfgNode) -> str:
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NAME == "SMPDecoderHead":
        return f"`{head.NAME}` with the decoder `{head.DECODER.NAME}`"
    return f"`{head.NAME}`"


def _scores(weights: Path, classes: list[str]) -> str:
    try:
        results = read_results(weights.parent, weights.name)
        means = {
            dataset: {
                task: {key: round(metrics[key], 2) for key in MEANS if metrics.get(key) is not None}
                for task, metrics in tasks.items()
            }
            for dataset, tasks in results.items()
        }
        tables = table_of_means(means), table_of_classes(classes, results)
    except (UserError, AttributeError, TypeError):
        return "No evaluation of these weights is recorded."
    return f"In per cent.\n\n{tables[0]}\n\nIoU of each class:\n\n{tables[1]}"


def _cost(model: nn.Module, run: Path) -> str:
    lines = [f"- {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"]
    cost = read_cost(run)
    machine = f"{cost.get('device', 'unknown device')}"
    if cost.get("device") == "cpu" and cost.get("threads"):
        machine += f", {cost['threads']} thread{'s' * (cost['threads'] > 1)}"
    seconds = {
        "seconds_per_image": "prediction of an image of the test set",
        "seconds_per_iteration": "an iteration of the training",
    }
    for key, what in seconds.items():
        if isinstance(cost.get(key), (int, float)):
            lines.append(f"- {1000 * cost[key]:.0f} ms: {what} ({machine})")
    return "\n".join(lines)
