"""Descriptions of datasets inside a config, so that a run's config.yaml needs no other file.

``DATASETS.FOLDERS`` names YAML files. What they say is kept in ``DATASETS.DESCRIPTIONS``, which
counts where a file is not there any more, or not on this machine.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from ..utils.errors import shown
from .description_reader import read_description, read_folder_dataset
from .errors import DatasetError
from .folder_dataset import FolderDataset
from .registration import is_builtin_name, register_builtin_datasets, register_dataset

logger = logging.getLogger(__name__)

# Without "splits" a description is of a dataset that Python code has registered: it says the
# classes, and not where the images are.
_SPLITS = "splits"
_CLASS_KEYS = {
    "classes": "stuff_classes",
    "palette": "stuff_colors",
    "ignore_label": "ignore_label",
    "value_range": "value_range",
}


def register_datasets_of(cfg: CfgNode, *, for_inference: bool = False) -> None:
    """Register the folder datasets of a config, and complete ``cfg.DATASETS`` in place.

    FOLDERS become absolute paths, and DESCRIPTIONS has all that the names in TRAIN and TEST stand
    for, but for datasets of this package.

    Args:
        cfg: the config, not frozen.
        for_inference: where another dataset has one of the names in this process, it keeps it;
            the model's classes are still known, from DESCRIPTIONS.

    Raises:
        DatasetError: a file is missing and not described, a description is not valid, or a name is
            another dataset's.
    """
    datasets = cfg.DATASETS
    datasets.FOLDERS = [os.path.abspath(os.path.expanduser(path)) for path in datasets.FOLDERS]
    found = list(folder_datasets(datasets.FOLDERS, datasets.DESCRIPTIONS))
    _refuse_equal_names(found)
    for dataset in found:
        try:
            register_dataset(dataset)
        except DatasetError as error:
            if not for_inference:
                raise
            logger.warning("%s The model keeps its own classes.", error)
    register_builtin_datasets((*datasets.TRAIN, *datasets.TEST))
    described = {name for dataset in found for name in dataset.registered_names()}
    others = [name for name in (*datasets.TRAIN, *datasets.TEST) if name not in described]
    datasets.DESCRIPTIONS = [
        *(dataset.describe() for dataset in found),
        *_class_descriptions(cfg, others),
    ]


def register_what_there_is(cfg: CfgNode) -> None:
    """As :func:`register_datasets_of` for a config that was not read by ``setup_config``.

    The config stays as it is. What cannot be registered is left to whoever needs it; names that
    are taken stay.
    """
    try:
        for dataset in folder_datasets(cfg.DATASETS.FOLDERS, cfg.DATASETS.DESCRIPTIONS):
            register_dataset(dataset)
    except DatasetError as error:
        logger.debug("Not registered: %s", error)
    register_builtin_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def folder_datasets(
    folders: Iterable[str], descriptions: Sequence[dict] = ()
) -> Iterator[FolderDataset]:
    """The datasets of DATASETS.FOLDERS and DATASETS.DESCRIPTIONS, each once.

    A file counts as long as it is there and has the classes that its description has.

    Raises:
        DatasetError: as :func:`register_datasets_of`.
    """
    kept = {}
    for description in descriptions:
        if not isinstance(description, dict) or _SPLITS in description:
            dataset = read_description(description)
            kept[str(dataset.source)] = dataset
    for path in dict.fromkeys(folders):
        source = os.path.realpath(os.path.expanduser(path))
        described = kept.pop(source, kept.pop(str(path), None))
        yield _file_or_description(path, source, described)
    yield from kept.values()


def metadata_of(cfg: CfgNode, name: str) -> Metadata:
    """What is known of a dataset's classes: as the config describes them, or else the catalog.

    Args:
        cfg: the config of a run, or any other config.
        name: name of the dataset in DATASETS.TRAIN or TEST.

    Returns:
        Detectron2's ``Metadata`` of that name; one of its own where the catalog has other classes
        under the name.
    """
    register_builtin_datasets([name])
    known = MetadataCatalog.get(name)
    described = _described_metadata(cfg.DATASETS.DESCRIPTIONS, name)
    if described is None or known.get("stuff_classes") == described["stuff_classes"]:
        return known
    return Metadata(name=name, **described)


def described_names(cfg: CfgNode) -> set[str]:
    """The names of the datasets whose classes the config describes."""
    names = set()
    for description in cfg.DATASETS.DESCRIPTIONS:
        if _SPLITS in description:
            names |= set(read_description(description).registered_names())
        else:
            names.add(description["name"])
    return names


def classes_only(cfg: CfgNode) -> list[dict]:
    """DATASETS.DESCRIPTIONS without the folders and files of this machine."""
    return list(_class_descriptions(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))


def _file_or_description(path: str, source: str, described: FolderDataset | None) -> FolderDataset:
    if described is None:
        return read_folder_dataset(path)
    if not Path(source).is_file():
        logger.info("%s is not there: the dataset is as DATASETS.DESCRIPTIONS says.", path)
        return described
    dataset = read_folder_dataset(path)
    if dataset.classes == described.classes:
        return dataset
    logger.warning(
        "%s has other classes than DATASETS.DESCRIPTIONS, which counts: it has those that the "
        "model was trained with. DATASETS.DESCRIPTIONS '[]' takes the file's.",
        path,
    )
    return described


def _refuse_equal_names(found: Iterable[FolderDataset]) -> None:
    sources: dict[str, Path] = {}
    for dataset in found:
        for name in dataset.registered_names():
            if name in sources:
                raise DatasetError(
                    f"{dataset.source}: the dataset '{name}' is already described by "
                    f"{sources[name]}. Choose another 'name'."
                )
            sources[name] = dataset.source


def _class_descriptions(cfg: CfgNode, names: Iterable[str]) -> Iterator[dict]:
    """The classes of datasets other than this package's, as code or the config says."""
    for name in dict.fromkeys(names):
        metadata = metadata_of(cfg, name)
        if metadata.get("stuff_classes") and not is_builtin_name(name):
            values = {key: metadata.get(attribute) for key, attribute in _CLASS_KEYS.items()}
            plain = {key: _plain(value) for key, value in values.items() if value is not None}
            yield {"name": name, **plain}


def _described_metadata(descriptions: Iterable[dict], name: str) -> dict | None:
    for description in descriptions:
        if _SPLITS in description:
            dataset = read_description(description)
            if name in dataset.registered_names():
                return dataset.metadata()
        elif description.get("name") == name:
            if not isinstance(description.get("classes"), list):
                raise DatasetError(
                    f"DATASETS.DESCRIPTIONS: '{name}' has the classes "
                    f"{shown(description.get('classes'))}, expected a list of names."
                )
            return {
                attribute: description[key]
                for key, attribute in _CLASS_KEYS.items()
                if key in description
            }
    return None


def _plain(value):
    """Convert tuples and arrays to lists, for YAML."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
