"""What a folder dataset is, and how its YAML description is read and checked.

``docs/DATASETS.md`` explains every key of the YAML format.
"""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError, shown, suggest
from ..utils.yaml_files import read_yaml
from .errors import DatasetError
from .palette import generate_palette

DATASETS_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
DEFAULT_LABEL_SUFFIXES = (".png",)
# The largest value a 16-bit label file can hold.
MAX_LABEL_VALUE = 65535

_ROOT_PREFIX = f"${DATASETS_VARIABLE}"
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
_SPLIT_PLACE = "{split}"
# Labels that count the classes from 1, with 0 for none; so called in mmsegmentation.
_REDUCE_ZERO = "reduce_zero_label"


class SplitFiles(NamedTuple):
    """Where the files of a split lie, relative to the dataset's root.

    Attributes:
        images: the folder of the images.
        labels: the folder of the labels. None: the images have none.
        list: a text file with the names of the images to use, one per line: the path below
            ``images`` without the suffix. None: all of them.
    """

    images: str
    labels: str | None = None
    list: str | None = None


class AnomalyIds(NamedTuple):
    """Which pixels an evaluation of anomalies is about; all others take no part in it.

    Attributes:
        unknown: values in the label files of what no class stands for.
        known: of what the model was trained to know.
    """

    unknown: tuple[int, ...]
    known: tuple[int, ...]


@dataclass(frozen=True)
class FolderDataset:
    """A dataset of images and label images in folders.

    Attributes:
        source: the YAML file it is described in.
        name: the first part of the names its splits are registered under, or the whole of them
            with "{split}" in the place of the split.
        root: as written in the YAML; see :meth:`resolve_root`.
        splits: split name -> where its files lie.
        classes: class names in the order of their indices.
        palette: an (r, g, b) colour for each class, 0-255.
        ignore_label: label of the pixels that belong to no class; never a class index.
        id_map: value in the label files -> class index or ``ignore_label``. None: the files hold
            class indices.
        image_suffixes, label_suffixes: what follows the part of a file name that an image and
            its label have in common.
        original_ids: class index -> the value that the publishers' own files have for the class,
            and their server expects. None: the class indices, or what ``id_map`` says.
        preparation: the script that makes these folders from what can be downloaded, if there is
            one.
        aliases: further names of splits in DatasetCatalog -> split.
        value_range: what the values of images with more than 8 bits range over, (low, high).
        anomaly: for a dataset with anomalous pixels, which belong to no class.
    """

    source: Path
    name: str
    root: str
    splits: dict[str, SplitFiles]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_label: int
    id_map: dict[int, int] | None
    image_suffixes: tuple[str, ...]
    label_suffixes: tuple[str, ...]
    original_ids: tuple[int, ...] | None = None
    preparation: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    value_range: tuple[float, float] | None = None
    anomaly: AnomalyIds | None = None

    def registered_name(self, split: str) -> str:
        """The name of a split in Detectron2's DatasetCatalog."""
        if _SPLIT_PLACE in self.name:
            return self.name.replace(_SPLIT_PLACE, split)
        return f"{self.name}_sem_seg_{split}"

    def registered_names(self) -> dict[str, str]:
        """All names in DatasetCatalog -> split."""
        return {self.registered_name(split): split for split in self.splits} | self.aliases

    def has_labels(self, split: str) -> bool:
        """Whether a split has labels; those of a public benchmark's test images are kept secret."""
        return self.splits[split].labels is not None

    @property
    def below_datasets_root(self) -> bool:
        """Whether the root is given relative to the environment variable DETECTRON2_DATASETS."""
        return self.root == _ROOT_PREFIX or self.root.startswith(f"{_ROOT_PREFIX}/")

    def describe(self) -> dict:
        """The dataset in plain YAML values, for :func:`read_description`.

        The root is absolute, unless it is relative to DETECTRON2_DATASETS; nothing refers to
        another file, and ``source`` says where the description came from.
        """
        root = self.root if self.below_datasets_root else os.path.abspath(self.resolve_root())
        description = {
            "source": str(self.source),
            "name": self.name,
            "root": str(root),
            "splits": {
                split: {key: path for key, path in files._asdict().items() if path is not None}
                for split, files in self.splits.items()
            },
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "ignore_label": self.ignore_label,
            "image_suffix": list(self.image_suffixes),
            "label_suffix": list(self.label_suffixes),
        }
        if self.id_map is not None:
            description["id_map"] = {
                raw: "ignore" if index == self.ignore_label else index
                for raw, index in self.id_map.items()
            }
        if self.original_ids is not None:
            description["original_ids"] = list(self.original_ids)
        if self.value_range is not None:
            description["value_range"] = list(self.value_range)
        if self.anomaly is not None:
            description["anomaly"] = {key: list(ids) for key, ids in self.anomaly._asdict().items()}
        if self.aliases:
            description["aliases"] = dict(self.aliases)
        if self.preparation is not None:
            description["preparation"] = self.preparation
        return description

    def metadata(self) -> dict:
        """What Detectron2's ``Metadata`` of a split says of classes and labels."""
        metadata = {
            "stuff_classes": list(self.classes),
            "stuff_colors": list(self.palette),
            "ignore_label": self.ignore_label,
        }
        if self.id_map is not None:
            metadata["id_map"] = self.id_map
        if self.original_ids is not None:
            metadata["original_ids"] = list(self.original_ids)
        if self.value_range is not None:
            metadata["value_range"] = self.value_range
        if self.anomaly is not None:
            metadata["anomaly_ids"] = self.anomaly
        return metadata

    def resolve_root(self) -> Path:
        """The folder of the dataset, from the environment as it is now."""
        if self.below_datasets_root:
            return datasets_root() / self.root[len(_ROOT_PREFIX) :].lstrip("/")
        return self.source.parent / Path(self.root).expanduser()


def datasets_root() -> Path:
    """The folder of the built-in datasets: ``DETECTRON2_DATASETS``, or ``./datasets``."""
    return Path(os.environ.get(DATASETS_VARIABLE) or "datasets").expanduser()


def read_folder_dataset(yaml_path: str | Path) -> FolderDataset:
    """Read and check a description; no image folder is looked at.

    Raises:
        DatasetError: the file is missing, is not YAML or describes no valid dataset.
    """
    # Not Path.resolve, which fails where a link leads to itself.
    source = Path(os.path.realpath(os.path.expanduser(yaml_path)))
    try:
        return _build(source, read_yaml(source))
    except UserError as error:
        raise DatasetError(f"Dataset description {error}") from error
    except _InvalidDescription as error:
        raise DatasetError(f"{source}: {error}") from error


def read_description(description: dict) -> FolderDataset:
    """The dataset that :meth:`FolderDataset.describe` has described.

    Raises:
        DatasetError: the description is not valid.
    """
    if not isinstance(description, dict) or not isinstance(description.get("source"), str):
        raise DatasetError(
            f"A description of DATASETS.DESCRIPTIONS is {shown(description)}, expected a mapping "
            "with the keys of a dataset's YAML and 'source', the path of that file."
        )
    source = Path(description["source"])
    try:
        return _build(source, {key: value for key, value in description.items() if key != "source"})
    except _InvalidDescription as error:
        raise DatasetError(f"DATASETS.DESCRIPTIONS, of {source}: {error}") from error


class _InvalidDescription(Exception):
    """What is wrong with a description; the reader adds the file's name."""


def _build(source: Path, description) -> FolderDataset:
    _check_keys(description, _KEYS, _REQUIRED_KEYS, "the dataset description")
    classes, original_ids = _read_classes(description["classes"], source.parent)
    if "original_ids" in description:
        original_ids = _read_original_ids(description["original_ids"], len(classes))
    ignore_label = _read_ignore_label(description.get("ignore_label", 255), len(classes))
    if "id_map" in description and "label_map" in description:
        raise _InvalidDescription("'label_map' is the former name of 'id_map': give one of them.")
    id_map = description.get("id_map", description.get("label_map"))
    id_map = _read_id_map(id_map, len(classes), ignore_label)
    palette = _read_palette(description.get("palette"), len(classes), source.parent)
    if "num_classes" in description:
        count = _read_num_classes(description["num_classes"], len(classes))
        id_map = _ignore_from(count, id_map, len(classes), ignore_label)
        classes, palette = classes[:count], palette[:count]
        original_ids = original_ids and original_ids[:count]
    splits = _read_splits(description["splits"])
    root = description.get("root", ".")
    if not isinstance(root, str):
        raise _InvalidDescription(f"'root' must be a path, but is {shown(root)}.")
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
        anomaly=_read_anomaly(description.get("anomaly"), id_map, len(classes)),
    )


def _check_keys(mapping, known, required, what: str) -> None:
    if not isinstance(mapping, dict):
        raise _InvalidDescription(
            f"{what} must be a mapping with the keys {', '.join(known)}, but is {shown(mapping)}."
        )
    for key in mapping:
        if key not in known:
            raise _InvalidDescription(
                f"unknown key '{key}' in {what}.{suggest(key, known)} "
                f"Known keys: {', '.join(known)}."
            )
    missing = [key for key in required if key not in mapping]
    if missing:
        raise _InvalidDescription(f"{what} lacks the key '{missing[0]}'.")


def _read_name(name, what: str) -> str:
    if not isinstance(name, str) or not _NAME_PATTERN.fullmatch(name):
        raise _InvalidDescription(
            f"{what} must consist of letters, digits, '_' and '-', but is {shown(name)}."
        )
    return name


def _read_dataset_name(name) -> str:
    if isinstance(name, str) and name.count(_SPLIT_PLACE) == 1:
        _read_name(name.replace(_SPLIT_PLACE, "_"), f"'name' without {_SPLIT_PLACE}")
        return name
    return _read_name(name, "'name'")


def _read_splits(splits) -> dict[str, SplitFiles]:
    if not isinstance(splits, dict) or not splits:
        raise _InvalidDescription(
            "'splits' must name at least one split, each with its folders: "
            "splits: {train: {images: FOLDER, labels: FOLDER}}."
        )
    result = {}
    for split, files in splits.items():
        _read_name(split, "the name of a split")
        _check_keys(files, SplitFiles._fields, _REQUIRED_SPLIT_KEYS, f"split '{split}'")
        for key, path in files.items():
            if not isinstance(path, str) or not path:
                raise _InvalidDescription(
                    f"'{key}' of split '{split}' must be a path, but is {shown(path)}."
                )
        result[split] = SplitFiles(**files)
    return result


def _read_aliases(aliases, splits) -> dict[str, str]:
    if not isinstance(aliases, dict) or not set(aliases.values()) <= set(splits):
        raise _InvalidDescription(
            f"'aliases' must map further names to splits ({', '.join(splits)}), but is "
            f"{shown(aliases)}."
        )
    return {_read_name(name, "a name of 'aliases'"): split for name, split in aliases.items()}


def _read_value_range(values) -> tuple[float, float] | None:
    if values is None:
        return None
    is_pair = isinstance(values, list) and len(values) == 2
    if not is_pair or not all(type(value) in (int, float) for value in values):
        raise _InvalidDescription(f"'value_range' must be [low, high], but is {shown(values)}.")
    low, high = map(float, values)
    if not -math.inf < low < high < math.inf:
        raise _InvalidDescription(f"'value_range' must be [low, high], but is {shown(values)}.")
    return low, high


def _read_classes(classes, folder: Path) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """The names, and the ids that a file of names gives them."""
    ids = None
    if isinstance(classes, str):
        classes, ids = _read_class_file(folder / Path(classes).expanduser())
    if not isinstance(classes, list) or not classes:
        raise _InvalidDescription(
            "'classes' must be a list of at least one class name, or the path of a YAML file that "
            "holds one."
        )
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise _InvalidDescription(
                f"'classes' must hold names, but {shown(name)} is none. "
                "(YAML reads no, yes, on, off and numbers as something else: put it in quotes.)"
            )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise _InvalidDescription(f"'classes' holds '{twice[0]}' twice.")
    return tuple(classes), ids


def _read_class_file(path: Path):
    """A list of names, and no ids; or the values of a mapping in their order, and its keys."""
    content = _read_yaml(path, "classes")
    if not isinstance(content, dict):
        return content, None
    for key in content:
        if not _is_integer(key, 0, MAX_LABEL_VALUE):
            raise _InvalidDescription(
                f"'classes' names the file {path}, which maps {shown(key)} to a class, but must "
                f"map the publishers' ids, integers in 0..{MAX_LABEL_VALUE}; or make it a list of "
                "names."
            )
    return list(content.values()), tuple(content)


def _read_yaml(path: Path, key: str):
    try:
        return read_yaml(path)
    except UserError as error:
        raise _InvalidDescription(f"'{key}' names the file {error}") from error


def _read_original_ids(ids, num_classes: int) -> tuple[int, ...]:
    """A list of ids as it is; one id: that one and those that follow."""
    if _is_integer(ids, 0, MAX_LABEL_VALUE + 1 - num_classes):
        return tuple(range(ids, ids + num_classes))
    is_list = isinstance(ids, list) and len(ids) == num_classes
    if not is_list or not all(_is_integer(value, 0, MAX_LABEL_VALUE) for value in ids):
        raise _InvalidDescription(
            "'original_ids', what the publishers' own files hold for the classes, must be a list "
            f"of {num_classes} integers in 0..{MAX_LABEL_VALUE}, one for each class, or one "
            f"integer, the first of consecutive ones, but is {shown(ids)}."
        )
    twice = [value for value, count in Counter(ids).items() if count > 1]
    if twice:
        raise _InvalidDescription(f"'original_ids' gives {twice[0]} to two classes.")
    return tuple(ids)


def _read_num_classes(count, num_classes: int) -> int:
    if not _is_integer(count, 1, num_classes):
        raise _InvalidDescription(
            f"'num_classes', how many of the classes are used, must be an integer in "
            f"1..{num_classes}, but is {shown(count)}."
        )
    return count


def _ignore_from(count: int, id_map, num_classes: int, ignore_label: int) -> dict[int, int]:
    """The label map with which classes from index ``count`` on are ignored."""
    if id_map is None:
        id_map = {index: index for index in [*range(num_classes), ignore_label]}
    return {raw: index if index < count else ignore_label for raw, index in id_map.items()}


def _read_ignore_label(ignore_label, num_classes: int) -> int:
    if not _is_integer(ignore_label, 0, MAX_LABEL_VALUE):
        raise _InvalidDescription(
            f"'ignore_label' must be an integer in 0..{MAX_LABEL_VALUE}, but is "
            f"{shown(ignore_label)}."
        )
    if ignore_label < num_classes:
        raise _InvalidDescription(
            f"'ignore_label' (255 unless given) must not be the index of a class, but is "
            f"{ignore_label} with {num_classes} classes. Give a value above {num_classes - 1}."
        )
    return ignore_label


def _read_palette(palette, num_classes: int, folder: Path) -> tuple[tuple[int, int, int], ...]:
    if palette is None:
        return generate_palette(num_classes)
    if isinstance(palette, str):
        palette = _read_yaml(folder / Path(palette).expanduser(), "palette")
    if not isinstance(palette, list) or len(palette) != num_classes:
        count = len(palette) if isinstance(palette, list) else shown(palette)
        raise _InvalidDescription(
            f"'palette' must list one colour for each of the {num_classes} classes, but has "
            f"{count}."
        )
    for color in palette:
        is_color = isinstance(color, list) and len(color) == 3
        if not is_color or not all(_is_integer(value, 0, 255) for value in color):
            raise _InvalidDescription(
                "a colour of 'palette' must be [red, green, blue] in 0..255, but one is "
                f"{shown(color)}."
            )
    return tuple(tuple(color) for color in palette)


def _read_id_map(id_map, num_classes: int, ignore_label: int) -> dict[int, int] | None:
    if id_map is None:
        return None
    if id_map == _REDUCE_ZERO:
        id_map = {0: "ignore", **{index + 1: index for index in range(num_classes)}}
    if not isinstance(id_map, dict) or not id_map:
        raise _InvalidDescription(
            "'id_map' must map values of the label files to class indices or to 'ignore', or be "
            f"'{_REDUCE_ZERO}'."
        )
    # The ignore label in a file stays what it is, unless the map says otherwise.
    result = {ignore_label: ignore_label}
    for raw, index in id_map.items():
        if not _is_integer(raw, 0, MAX_LABEL_VALUE):
            raise _InvalidDescription(
                f"a key of 'id_map' must be an integer in 0..{MAX_LABEL_VALUE}, but one is "
                f"{shown(raw)}."
            )
        if index != "ignore" and not _is_integer(index, 0, num_classes - 1):
            raise _InvalidDescription(
                f"'id_map' maps {raw} to {shown(index)}, but must map it to a class index in "
                f"0..{num_classes - 1} or to 'ignore'."
            )
        result[raw] = ignore_label if index == "ignore" else index
    return result


def _read_anomaly(anomaly, id_map: dict[int, int] | None, num_classes: int) -> AnomalyIds | None:
    """Without ``known``, the values of all classes."""
    if anomaly is None:
        return None
    _check_keys(anomaly, AnomalyIds._fields, ("unknown",), "'anomaly'")
    if id_map is None:
        id_map = {index: index for index in range(num_classes)}
    of_classes = [raw for raw, index in id_map.items() if index < num_classes]
    ids = {"known": of_classes} | anomaly
    for key, values in ids.items():
        is_list = isinstance(values, list) and bool(values)
        if not is_list or not all(_is_integer(value, 0, MAX_LABEL_VALUE) for value in values):
            raise _InvalidDescription(
                f"'{key}' of 'anomaly' must list values of the label files, integers in "
                f"0..{MAX_LABEL_VALUE}, but is {shown(values)}."
            )
    wrong = sorted(set(ids["unknown"]) & {*of_classes, *ids["known"]})
    if wrong:
        raise _InvalidDescription(
            f"'unknown' of 'anomaly' has {wrong[0]}, which is known or stands for a class. Map it "
            "to 'ignore' in 'id_map', so that no model is trained on it."
        )
    return AnomalyIds(tuple(ids["unknown"]), tuple(ids["known"]))


def _read_suffixes(description: dict, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = description.get(key, list(default))
    suffixes = [value] if isinstance(value, str) else value
    is_list = isinstance(suffixes, list) and bool(suffixes)
    if not is_list or not all(isinstance(suffix, str) and suffix for suffix in suffixes):
        raise _InvalidDescription(
            f"'{key}' must be the end of file names, such as .png or _labels.png, "
            f"or a list of them, but is {shown(value)}."
        )
    return tuple(suffixes)


def _is_integer(value, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
