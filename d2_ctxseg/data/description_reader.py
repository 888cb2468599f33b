"""Read the YAML description of a dataset in folders.

``datasets/README.md`` explains the keys.
"""

import math
import os
import re
from pathlib import Path

from ..utils.errors import UserError, shown
from ..utils.yaml_files import read_yaml
from .description_checks import InvalidDescription, check_keys
from .description_classes import (
    ignore_classes_from,
    read_anomaly,
    read_classes,
    read_id_map,
    read_ignore_label,
    read_num_classes,
    read_original_ids,
    read_palette,
)
from .errors import DatasetError
from .folder_dataset import SPLIT_PLACEHOLDER, FolderDataset, SplitFiles

DEFAULT_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
DEFAULT_LABEL_SUFFIXES = (".png",)

_KEYS = (
    "name",
    "root",
    "splits",
    "classes",
    "palette",
    "ignore_label",
    "id_map",
    "label_map",  # the former name of id_map
    "image_suffix",
    "label_suffix",
    "num_classes",
    "original_ids",
    "preparation",
    "aliases",
    "value_range",
    "anomaly",
)
_REQUIRED_KEYS = ("name", "splits", "classes")
_REQUIRED_SPLIT_KEYS = ("images",)
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_folder_dataset(yaml_path: str | Path) -> FolderDataset:
    """Read and check a YAML description. The folders of the dataset need not exist.

    Raises:
        DatasetError: the file does not exist, is not YAML, or is not a valid description.
    """
    # Not Path.resolve, which fails for a link to itself.
    source = Path(os.path.realpath(os.path.expanduser(yaml_path)))
    try:
        return _build(source, read_yaml(source))
    except UserError as error:
        raise DatasetError(f"Dataset description {error}") from error
    except InvalidDescription as error:
        raise DatasetError(f"{source}: {error}") from error


def read_description(description: dict) -> FolderDataset:
    """The dataset of a description from :meth:`FolderDataset.describe`.

    Raises:
        DatasetError: the description is not valid.
    """
    if not isinstance(description, dict) or not isinstance(description.get("source"), str):
        raise DatasetError(
            f"An entry of DATASETS.DESCRIPTIONS is {shown(description)}, expected a mapping with "
            "the keys of a dataset's YAML and 'source', the path of the YAML file."
        )
    source = Path(description["source"])
    try:
        return _build(source, {key: value for key, value in description.items() if key != "source"})
    except InvalidDescription as error:
        raise DatasetError(f"DATASETS.DESCRIPTIONS, {source}: {error}") from error


def _build(source: Path, description) -> FolderDataset:
    check_keys(description, _KEYS, _REQUIRED_KEYS, "the dataset description")
    classes, original_ids = read_classes(description["classes"], source.parent)
    if "original_ids" in description:
        original_ids = read_original_ids(description["original_ids"], len(classes))
    ignore_label = read_ignore_label(description.get("ignore_label", 255), len(classes))
    if "id_map" in description and "label_map" in description:
        raise InvalidDescription("'label_map' is the former name of 'id_map': use only 'id_map'.")
    id_map = description.get("id_map", description.get("label_map"))
    id_map = read_id_map(id_map, len(classes), ignore_label)
    palette = read_palette(description.get("palette"), len(classes), source.parent)
    if "num_classes" in description:
        count = read_num_classes(description["num_classes"], len(classes))
        id_map = ignore_classes_from(count, id_map, len(classes), ignore_label)
        classes, palette = classes[:count], palette[:count]
        original_ids = original_ids and original_ids[:count]
    splits = _read_splits(description["splits"])
    root = description.get("root", ".")
    if not isinstance(root, str):
        raise InvalidDescription(f"'root' must be a path, but is {shown(root)}.")
    return FolderDataset(
        source=source,
        name=_read_dataset_name(description["name"]),
        root=root,
        splits=splits,
        classes=classes,
        palette=palette,
        ignore_label=ignore_label,
        id_map=id_map,
        image_suffixes=_read_suffixes(description, "image_suffix", DEFAULT_IMAGE_SUFFIXES),
        label_suffixes=_read_suffixes(description, "label_suffix", DEFAULT_LABEL_SUFFIXES),
        original_ids=original_ids,
        preparation=description.get("preparation"),
        aliases=_read_aliases(description.get("aliases", {}), splits),
        value_range=_read_value_range(description.get("value_range")),
        anomaly=read_anomaly(description.get("anomaly"), id_map, len(classes)),
    )


def _read_name(name, what: str) -> str:
    if not isinstance(name, str) or not _NAME_PATTERN.fullmatch(name):
        raise InvalidDescription(
            f"{what} must consist of letters, digits, '_' and '-', but is {shown(name)}."
        )
    return name


def _read_dataset_name(name) -> str:
    if isinstance(name, str) and name.count(SPLIT_PLACEHOLDER) == 1:
        _read_name(name.replace(SPLIT_PLACEHOLDER, "_"), f"'name' without {SPLIT_PLACEHOLDER}")
        return name
    return _read_name(name, "'name'")


def _read_splits(splits) -> dict[str, SplitFiles]:
    if not isinstance(splits, dict) or not splits:
        raise InvalidDescription(
            "'splits' must name at least one split, each with its folders: "
            "splits: {train: {images: FOLDER, labels: FOLDER}}."
        )
    result = {}
    for split, files in splits.items():
        _read_name(split, "the name of a split")
        check_keys(files, SplitFiles._fields, _REQUIRED_SPLIT_KEYS, f"split '{split}'")
        for key, path in files.items():
            if not isinstance(path, str) or not path:
                raise InvalidDescription(
                    f"'{key}' of split '{split}' must be a path, but is {shown(path)}."
                )
        result[split] = SplitFiles(**files)
    return result


def _read_aliases(aliases, splits) -> dict[str, str]:
    if not isinstance(aliases, dict) or not set(aliases.values()) <= set(splits):
        raise InvalidDescription(
            f"'aliases' must map names to splits ({', '.join(splits)}), but is {shown(aliases)}."
        )
    return {_read_name(name, "a name in 'aliases'"): split for name, split in aliases.items()}


def _read_value_range(values) -> tuple[float, float] | None:
    if values is None:
        return None
    is_pair = isinstance(values, list) and len(values) == 2
    is_pair = is_pair and all(type(value) in (int, float) for value in values)
    if not is_pair or not -math.inf < values[0] < values[1] < math.inf:
        raise InvalidDescription(f"'value_range' must be [low, high], but is {shown(values)}.")
    return float(values[0]), float(values[1])


def _read_suffixes(description: dict, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = description.get(key, list(default))
    suffixes = [value] if isinstance(value, str) else value
    is_list = isinstance(suffixes, list) and bool(suffixes)
    if not is_list or not all(isinstance(suffix, str) and suffix for suffix in suffixes):
        raise InvalidDescription(
            f"'{key}' must be the end of file names, such as .png or _labels.png, "
            f"or a list of them, but is {shown(value)}."
        )
    return tuple(suffixes)
