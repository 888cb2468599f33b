"""The index and the files of the trained models in the package.

A folder of trained models contains ``models.yaml`` (the index) and, for each model, a file of
weights and a model card. ``tools/publish_model.py`` writes these files.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from ..utils.errors import MissingFileError, UserError, suggest
from ..utils.files import atomic_write

TRAINED_FOLDER = Path(__file__).resolve().parent / "trained"
INDEX_NAME = "models.yaml"
_HEADER = "# Trained models by the name of their config; written by tools/publish_model.py.\n"


@dataclass(frozen=True)
class TrainedModel:
    """An entry of the index.

    Attributes:
        name: name of the config, such as "camvid/fpn_resnet18_linear".
        file: name of the file of weights, beside the index.
        size: size of that file in bytes.
        sha256: SHA-256 of that file, in hexadecimal digits.
        trained_on: names of the training datasets.
        scores: {dataset: {task: {metric: per cent}}}, before the conversion to half precision.
        opts: key -> value, where the model differs from the config.
    """

    name: str
    file: str
    size: int
    sha256: str
    trained_on: list[str]
    scores: dict[str, dict[str, dict[str, float]]]
    opts: dict = field(default_factory=dict)


def read_trained_models(folder: Path = TRAINED_FOLDER) -> dict[str, TrainedModel]:
    """The index of a folder as {name: model}; empty if the folder has no index.

    Raises:
        UserError: the index is damaged.
    """
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {name: TrainedModel(name=name, **entry) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"The index of trained models '{path}' is damaged: {' '.join(str(error).split())}. "
            "Restore the file, or install the package again."
        ) from error


def find_trained_model(name: str, folder: Path = TRAINED_FOLDER) -> TrainedModel:
    """The index entry of a config.

    Args:
        name: name of the config, with or without ".yaml".
        folder: the folder of the index.

    Raises:
        UserError: the config has no trained weights; the message lists the models that have.
    """
    models = read_trained_models(folder)
    name = name.removesuffix(".yaml")
    if name not in models:
        raise UserError(
            f"There are no trained weights for '{name}'.{suggest(name, models)} "
            f"Trained models: {', '.join(models) or 'none'}."
        )
    return models[name]


def check_file(model: TrainedModel, folder: Path = TRAINED_FOLDER) -> str:
    """The absolute path of a model's weights, after a check of the file's SHA-256.

    Raises:
        MissingFileError: the file does not exist.
        UserError: the file's content differs from the index.
    """
    path = Path(folder).resolve() / model.file
    remedy = "Restore it with 'git checkout', or install the package again."
    if not path.is_file():
        raise MissingFileError(
            f"The weights of '{model.name}' are missing: '{path}' does not exist. {remedy}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise UserError(
            f"The weights of '{model.name}' are damaged: '{path}' has {len(content)} bytes and a "
            f"wrong SHA-256, expected {model.size} bytes as in the index. {remedy}"
        )
    return str(path)


def write_trained_model(model: TrainedModel, weights: bytes, folder: Path) -> None:
    """Write a model's file of weights and its entry in the index of ``folder``.

    Raises:
        WriteError: a file cannot be written.
        UserError: the existing index is damaged.
    """
    folder = Path(folder)
    models = read_trained_models(folder) | {model.name: model}
    entries = {name: asdict(models[name]) for name in sorted(models)}
    for entry in entries.values():
        del entry["name"]
    with atomic_write(folder / model.file, "wb") as file:
        file.write(weights)
    with atomic_write(folder / INDEX_NAME) as file:
        file.write(_HEADER + yaml.safe_dump(entries, sort_keys=False))
