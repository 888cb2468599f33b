"""Register folder datasets in Detectron2's catalogs."""

import functools
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..utils.errors import counted, suggest
from .context_shapes import generate_context_shapes
from .description_reader import read_folder_dataset
from .errors import DatasetError
from .folder_dataset import FolderDataset
from .images import open_image
from .pairing import SKIPPED_FILE, check_complete, list_images, pair_split

BUILTIN_FOLDER = Path(__file__).resolve().parent / "datasets"

#: The entry of a record whose label Detectron2's DatasetMapper would misread, and says why.
NEEDS_MAPPER = "needs_mapper"

logger = logging.getLogger(__name__)

# Names that Detectron2 or projects such as MaskFormer, Mask2Former and those with open vocabularies
# register, or set colours of, as they are imported. Detectron2's catalogs take each name, and each
# attribute of one, once.
_SHARED = re.compile(
    "ade20k_(full_)?sem_seg_|cityscapes_fine_|coco_2017_|pascal_context_59_|fishyscapes_|road_anomaly_"
)
# Name in the catalog -> (dataset, split), of the datasets registered here.
_registered: dict[str, tuple[FolderDataset, str]] = {}
# Datasets that can be generated: name -> function of the output folder.
_generators = {
    "context_shapes": generate_context_shapes,
    "context_shapes_withheld": generate_context_shapes,
}


def register_builtin_datasets(names: Iterable[str] | None = None) -> None:
    """Register datasets that are described in this package.

    Importing the package registers ``unshared_names()``; the others are registered on first use.
    Registrations of other projects are kept. Those of Detectron2 itself are replaced: they describe
    the same files with less metadata.

    Args:
        names: names in Detectron2's catalog; those that this package does not describe are skipped.
            None: all that it describes.
    """
    described = _described()
    for name in described if names is None else names:
        if name in described and name not in _registered and _is_free(name):
            _register_split(name, *described[name])


def unshared_names() -> list[str]:
    """The names of this package's datasets that no other project is known to register."""
    return [name for name in _described() if not _SHARED.match(name)]


def dataset_names() -> list[str]:
    """The names of all datasets: those in Detectron2's catalog, and those described here."""
    return list(dict.fromkeys([*DatasetCatalog.list(), *_described()]))


def register_folder_datasets(yaml_paths: Iterable[str | Path]) -> list[str]:
    """Register all datasets of a list such as ``cfg.DATASETS.FOLDERS``; returns all names."""
    return [name for path in yaml_paths for name in register_folder_dataset(path)]


def register_folder_dataset(yaml_path: str | Path) -> list[str]:
    """Register all splits of the dataset that a YAML file describes.

    No image folder is looked at until a split is loaded. Registering the same file again changes
    nothing.

    Returns:
        the registered names, one per split (``<name>_sem_seg_<split>``) and the aliases.

    Raises:
        DatasetError: the description is not valid, or one of the names is another dataset's.
    """
    return register_dataset(read_folder_dataset(yaml_path))


def register_dataset(dataset: FolderDataset) -> list[str]:
    """As :func:`register_folder_dataset`, for a description that was read already."""
    names = dataset.registered_names()
    for name in names:
        _check_free(name, dataset)
    for name, split in names.items():
        if name not in _registered:
            _register_split(name, dataset, split)
    return list(names)


def folder_dataset_of(name: str) -> tuple[FolderDataset, str]:
    """The (dataset, split) registered under ``name``; DatasetError if there is none."""
    register_builtin_datasets([name])
    if name not in _registered:
        raise DatasetError(
            f"'{name}' is not a folder dataset.{suggest(name, [*_described(), *_registered])} "
            f"Registered ones: {', '.join(_registered)}."
        )
    return _registered[name]


def has_labels(name: str) -> bool:
    """Whether the dataset ``name`` has labels; of those registered by others it is assumed."""
    register_builtin_datasets([name])
    dataset, split = _registered.get(name, (None, None))
    return dataset is None or dataset.has_labels(split)


def generate_missing(names: Iterable[str]) -> None:
    """Generate the synthetic datasets among ``names`` that are not on disk yet.

    All processes of a distributed run call it: the main one generates, the others wait.

    Raises:
        DatasetError: a dataset could not be generated; raised in all processes.
    """
    error = None
    if comm.is_main_process():
        try:
            for name in names:
                _generate_if_missing(name)
        except (OSError, DatasetError) as caught:
            error = str(caught)
    # Gathering makes the other processes wait, and lets them fail instead of hang.
    errors = [message for message in comm.all_gather(error) if message is not None]
    if errors:
        raise DatasetError(f"Cannot generate the dataset: {errors[0]}")


def _generate_if_missing(name: str) -> None:
    register_builtin_datasets([name])
    dataset, _ = _registered.get(name, (None, None))
    if dataset is None or not _is_builtin(dataset):
        return
    root = dataset.resolve_root()
    if dataset.name in _generators and not root.exists():
        logger.info("Generating the dataset '%s' in %s", dataset.name, root.absolute())
        _generators[dataset.name](root)


def is_builtin_name(name: str) -> bool:
    """Whether the dataset registered under ``name`` is one that this package describes."""
    dataset, _ = _registered.get(name, (None, None))
    return dataset is not None and _is_builtin(dataset)


def _is_builtin(dataset: FolderDataset) -> bool:
    return dataset.source.parent == BUILTIN_FOLDER


def _check_free(name: str, dataset: FolderDataset) -> None:
    if name not in _registered:
        if name in DatasetCatalog and not _is_builtin(dataset):
            raise DatasetError(
                f"{dataset.source}: a dataset named '{name}' is registered already. "
                "Choose another 'name'."
            )
        return
    other, _ = _registered[name]
    if other.source != dataset.source:
        raise DatasetError(
            f"{dataset.source}: the dataset '{name}' is already described by {other.source}. "
            "Choose another 'name'."
        )
    if other.describe() != dataset.describe():
        raise DatasetError(
            f"{dataset.source} has changed since the dataset '{name}' was registered. "
            "Start a new process."
        )


def _register_split(name: str, dataset: FolderDataset, split: str) -> None:
    metadata = _take_over(name)
    DatasetCatalog.register(name, functools.partial(_load_split, name, dataset, split))
    if not dataset.has_labels(split):
        metadata.pop("sem_seg_root", None)
    metadata |= dataset.metadata()
    # Detectron2's own, of Cityscapes, stays: other projects choose an evaluator by it.
    metadata.setdefault("evaluator_type", "sem_seg")
    MetadataCatalog.get(name).set(**metadata)
    _registered[name] = (dataset, split)


@functools.cache
def _described() -> dict[str, tuple[FolderDataset, str]]:
    """The datasets of this package, by the names that they can be registered under."""
    datasets = [read_folder_dataset(path) for path in sorted(BUILTIN_FOLDER.glob("*.yaml"))]
    return {
        name: (dataset, split)
        for dataset in datasets
        for name, split in dataset.registered_names().items()
    }


def _is_free(name: str) -> bool:
    """Whether a name is not registered, or registered by Detectron2 itself."""
    if name not in DatasetCatalog:
        return True
    return (getattr(DatasetCatalog[name], "__module__", None) or "").startswith("detectron2.data.")


def _take_over(name: str) -> dict:
    """Unregister a name of Detectron2, and return the metadata of the name.

    Detectron2's loader checks only that a folder exists, and has no colours. A name may have
    metadata without a dataset: other projects set the colours of Detectron2's datasets.
    """
    metadata = dict(MetadataCatalog.get(name).as_dict())
    MetadataCatalog.remove(name)
    metadata.pop("name")
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    return metadata


def _load_split(name: str, dataset: FolderDataset, split: str) -> list[dict]:
    """The records of a split in Detectron2's format. Images are not opened."""
    if dataset.has_labels(split):
        pairing = pair_split(dataset, split)
        check_complete(pairing, name)
        if pairing.skipped:
            skipped = pairing.label_folder / SKIPPED_FILE
            pairs = counted(pairing.skipped, "pair")
            logger.warning("Dataset '%s': %s leaves out %s", name, skipped, pairs)
        roots = {"image_root": pairing.image_folder, "sem_seg_root": pairing.label_folder}
        files = {
            key: {"file_name": str(image), "sem_seg_file_name": str(label)}
            for key, (image, label) in pairing.pairs.items()
        }
    else:
        image_folder, images = list_images(dataset, split)
        roots = {"image_root": image_folder}
        files = {key: {"file_name": str(image)} for key, image in sorted(images.items())}
    # Metadata refuses to change an attribute, but the folders depend on an environment variable.
    vars(MetadataCatalog.get(name)).update({key: str(root) for key, root in roots.items()})
    logger.info("Dataset '%s': %s in %s", name, counted(len(files), "image"), roots["image_root"])
    common = {"dataset_name": name}
    if dataset.has_labels(split):
        reason = _why_misread(dataset, next((f["sem_seg_file_name"] for f in files.values()), None))
        common |= {NEEDS_MAPPER: reason} if reason else {}
    if dataset.value_range is not None:
        common["value_range"] = dataset.value_range
    return [{**record, "image_id": key, **common} for key, record in files.items()]


def _why_misread(dataset: FolderDataset, label: str | None) -> str:
    """Why Detectron2's DatasetMapper would misread the labels; "" if it reads them correctly.

    It reads a label as a grey image and takes its brightness for the class index.
    """
    if dataset.id_map is not None:
        return "their values are mapped by 'id_map'"
    if dataset.ignore_label != 255:
        return f"their ignore label is {dataset.ignore_label}"
    try:
        mode = open_image(label, lambda image: image.mode, "label")
    except DatasetError:  # reading it says what is wrong
        return ""
    kinds = {"P": "they are palette images, whose colours it turns into brightnesses"}
    return "" if mode == "L" else kinds.get(mode, f"they are images of mode {mode}")
