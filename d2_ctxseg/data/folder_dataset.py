"""A dataset of images and labels in folders.

``datasets/README.md`` explains the keys of its YAML description.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

DATASETS_VARIABLE = "DETECTRON2_DATASETS"
#: In a dataset's name: the place of the split.
SPLIT_PLACEHOLDER = "{split}"

_ROOT_PREFIX = f"${DATASETS_VARIABLE}"


class SplitFiles(NamedTuple):
    """The locations of a split's files, relative to the dataset's root.

    Attributes:
        images: the folder of the images.
        labels: the folder of the labels. None: the split has no labels.
        list: a text file with the images of the split, one per line: the path below ``images``
            without the suffix. None: all images in the folder.
    """

    images: str
    labels: str | None = None
    list: str | None = None


class AnomalyIds(NamedTuple):
    """The pixels that an evaluation of anomalies compares; it ignores all other pixels.

    Attributes:
        unknown: values in the label files for anomalies, which belong to no class.
        known: values in the label files for pixels of known classes.
    """

    unknown: tuple[int, ...]
    known: tuple[int, ...]


@dataclass(frozen=True)
class FolderDataset:
    """A dataset of images and label images in folders.

    Attributes:
        source: the YAML file of the description.
        name: the first part of the registered names of the splits, or a complete name with
            "{split}" in place of the split.
        root: the root folder as written in the YAML; see :meth:`resolve_root`.
        splits: split name -> locations of its files.
        classes: class names in the order of their indices.
        palette: an (r, g, b) colour for each class, 0-255.
        ignore_label: label of pixels that belong to no class; never a class index.
        id_map: value in the label files -> class index or ``ignore_label``. None: the files contain
            class indices.
        image_suffixes, label_suffixes: the ends of the file names. Without them, an image and its
            label have the same name.
        original_ids: class index -> the value of the class in the publisher's files, which an
            evaluation server expects. None: the class indices, or the values in ``id_map``.
        preparation: the command that creates the folders from the official archives, if there is
            one.
        aliases: further name of a split in DatasetCatalog -> split.
        value_range: (low, high), the range of values of images with more than 8 bits per channel.
        anomaly: the pixels to compare, in a dataset with anomalies.
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
        if SPLIT_PLACEHOLDER in self.name:
            return self.name.replace(SPLIT_PLACEHOLDER, split)
        return f"{self.name}_sem_seg_{split}"

    def registered_names(self) -> dict[str, str]:
        """All names in DatasetCatalog, aliases included -> split."""
        return {self.registered_name(split): split for split in self.splits} | self.aliases

    def has_labels(self, split: str) -> bool:
        """Whether a split has labels; many benchmarks do not publish those of the test images."""
        return self.splits[split].labels is not None

    @property
    def below_datasets_root(self) -> bool:
        """Whether the root is relative to the environment variable DETECTRON2_DATASETS."""
        return self.root == _ROOT_PREFIX or self.root.startswith(f"{_ROOT_PREFIX}/")

    def describe(self) -> dict:
        """The description in plain YAML values, for ``description_reader.read_description``.

        The root is absolute, unless it is relative to DETECTRON2_DATASETS. The description does not
        refer to other files; ``source`` is the path of the original YAML file.
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
        if self.anomaly is not None:
            description["anomaly"] = {key: list(ids) for key, ids in self.anomaly._asdict().items()}
        optional = {
            "original_ids": self.original_ids and list(self.original_ids),
            "value_range": self.value_range and list(self.value_range),
            "aliases": dict(self.aliases),
            "preparation": self.preparation,
        }
        return description | {key: value for key, value in optional.items() if value}

    def metadata(self) -> dict:
        """The entries on classes and labels of a split's Detectron2 ``Metadata``."""
        entries = {
            "stuff_classes": list(self.classes),
            "stuff_colors": list(self.palette),
            "ignore_label": self.ignore_label,
            "id_map": self.id_map,
            "original_ids": self.original_ids and list(self.original_ids),
            "value_range": self.value_range,
            "anomaly_ids": self.anomaly,
        }
        return {key: value for key, value in entries.items() if value is not None}

    def resolve_root(self) -> Path:
        """The root folder of the dataset, from the current environment variables."""
        if self.below_datasets_root:
            return datasets_root() / self.root[len(_ROOT_PREFIX) :].lstrip("/")
        return self.source.parent / Path(self.root).expanduser()


def datasets_root() -> Path:
    """The folder of the built-in datasets: ``DETECTRON2_DATASETS``, or ``./datasets``."""
    return Path(os.environ.get(DATASETS_VARIABLE) or "datasets").expanduser()
