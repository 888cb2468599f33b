"""Pair the images of a split with their label files."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import counted
from .errors import DatasetError
from .folder_dataset import DATASETS_VARIABLE, FolderDataset

#: A file in the label folder of a split that lists labels to skip with their images. A line holds
#: the path below the folder, a tab and the reason. The preparation scripts write it.
SKIPPED_FILE = "skipped.txt"

_NUM_EXAMPLES = 5
_HOW_TO_GET = "datasets/README.md of this project says how to get the data."


@dataclass(frozen=True)
class Pairing:
    """The files of one split. A key is the path below the folder without the suffix.

    Attributes:
        image_folder, label_folder: the folders of the split.
        pairs: key -> (image file, label file), sorted by key.
        images_without_label, labels_without_image: the unpaired files, sorted.
        skipped: number of pairs that SKIPPED_FILE excludes.
    """

    image_folder: Path
    label_folder: Path
    pairs: dict[str, tuple[Path, Path]]
    images_without_label: list[Path]
    labels_without_image: list[Path]
    skipped: int = 0

    def problems(self) -> list[str]:
        """A sentence for each kind of unpaired file; empty if all files are paired."""
        problems = []
        if self.images_without_label:
            problems.append(
                f"{_count(self.images_without_label, 'image')} no label in {self.label_folder}: "
                f"{examples(self.images_without_label)}."
            )
        if self.labels_without_image:
            problems.append(
                f"{_count(self.labels_without_image, 'label')} no image in {self.image_folder}: "
                f"{examples(self.labels_without_image)}."
            )
        return problems


def pair_split(dataset: FolderDataset, split: str) -> Pairing:
    """List the two folders of a split, subfolders included, and pair their files by name.

    If the split has a list, only the listed images are used.

    Raises:
        DatasetError: the split has no labels; the root, a folder or the list does not exist; a
            folder contains no file with a matching suffix, or no file for a listed name; or two
            files have the same key.
    """
    if not dataset.has_labels(split):
        raise DatasetError(
            f"Dataset '{dataset.registered_name(split)}' has only images: its split '{split}' "
            f"has no 'labels' in {dataset.source}. Use another split, or add the folder of its "
            "labels there."
        )
    image_folder, images = list_images(dataset, split)
    label_folder = dataset.resolve_root() / dataset.splits[split].labels
    labels = _list_files(label_folder, dataset.label_suffixes, dataset, split, "label")
    if dataset.splits[split].list is not None:
        labels = {key: labels[key] for key in labels.keys() & images.keys()}
    skipped = _skipped_names(label_folder, dataset)
    for key in skipped:
        images.pop(key, None)
        labels.pop(key, None)
    return Pairing(
        image_folder,
        label_folder,
        pairs={key: (images[key], labels[key]) for key in sorted(images.keys() & labels.keys())},
        images_without_label=[images[key] for key in sorted(images.keys() - labels.keys())],
        labels_without_image=[labels[key] for key in sorted(labels.keys() - images.keys())],
        skipped=len(skipped),
    )


def list_images(dataset: FolderDataset, split: str) -> tuple[Path, dict[str, Path]]:
    """The image folder of a split, and its images by key.

    Raises:
        DatasetError: the root, the folder or the split's list does not exist; the folder contains
            no image, or no image for a listed name; or two images have the same key.
    """
    root = dataset.resolve_root()
    if not root.is_dir():
        raise DatasetError(_missing_root(dataset, root))
    files = dataset.splits[split]
    folder = root / files.images
    images = _list_files(folder, dataset.image_suffixes, dataset, split, "image")
    if files.list is not None:
        images = _listed(images, root / files.list, folder, dataset.name)
    return folder, images


def check_complete(pairing: Pairing, name: str) -> None:
    """Raise DatasetError if an image or a label of the dataset ``name`` is not paired."""
    problems = pairing.problems()
    if problems:
        raise DatasetError(
            f"Dataset '{name}': {' '.join(problems)} An image and its label must have the same "
            "name before the suffix ('image_suffix' and 'label_suffix' in the dataset's YAML)."
        )


def _listed(images: dict[str, Path], path: Path, folder: Path, name: str) -> dict[str, Path]:
    """The images that the file ``path`` lists, in the order of the list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"Dataset '{name}': the list {path} cannot be read: {error}") from error
    keys = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    missing = [key for key in keys if key not in images]
    if missing or not keys:
        problem = "it is empty"
        if missing:
            found = examples(list(map(Path, missing)))
            problem = f"{len(missing)} of {len(keys)} lines name no image in {folder}: {found}"
        raise DatasetError(
            f"Dataset '{name}', list {path}: {problem}. A line must be the path of an image below "
            "the image folder without the suffix ('image_suffix' in the YAML)."
        )
    return {key: images[key] for key in keys}


def _skipped_names(label_folder: Path, dataset: FolderDataset) -> set[str]:
    path = label_folder / SKIPPED_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    labels = [line.partition("\t")[0] for line in lines if line.strip()]
    return {_key(label, dataset.label_suffixes) or label for label in labels}


def _key(name: str, suffixes) -> str | None:
    """A name without its suffix; None if it ends with none of the suffixes."""
    suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
    return None if suffix is None else name[: -len(suffix)]


def _missing_root(dataset: FolderDataset, root: Path) -> str:
    message = f"Dataset '{dataset.name}' is missing: the folder {root.absolute()} does not exist."
    if not dataset.below_datasets_root:
        return f"{message} It is the 'root' in {dataset.source}."
    value = os.environ.get(DATASETS_VARIABLE)
    state = f"is '{value}'" if value else "is not set, so the default is ./datasets"
    return (
        f"{message} It is relative to the environment variable {DATASETS_VARIABLE}, which {state}."
        f"{_how_to_get(dataset)}"
    )


def _how_to_get(dataset: FolderDataset) -> str:
    if dataset.preparation is None:
        return f" {_HOW_TO_GET}"
    return (
        f" Run '{dataset.preparation}': it creates these folders, or says which files are missing."
    )


def _prepare_hint(dataset: FolderDataset, split: str) -> str:
    if dataset.preparation is None:
        return ""
    # The command does not create images without labels.
    return _how_to_get(dataset) if dataset.has_labels(split) else f" {_HOW_TO_GET}"


def _list_files(folder: Path, suffixes, dataset: FolderDataset, split: str, kind: str):
    """Key -> file, for all files below ``folder`` with one of the suffixes."""
    where = f"Dataset '{dataset.name}', split '{split}': the {kind} folder {folder.absolute()}"
    if not folder.is_dir():
        raise DatasetError(
            f"{where} does not exist ('{kind}s' in {dataset.source})."
            f"{_prepare_hint(dataset, split)}"
        )
    files: dict[str, Path] = {}
    others = []
    paths = sorted(folder.rglob("*"))
    _check_names(paths, where)
    for path in paths:
        # Hidden files belong to the system, such as "._name.png" of macOS.
        if path.name.startswith(".") or not path.is_file():
            continue
        key = _key(path.relative_to(folder).as_posix(), suffixes)
        if key is None:
            others.append(path)
            continue
        if key in files:
            raise DatasetError(f"{where} contains two files of one name: {files[key]} and {path}.")
        files[key] = path
    if not files:
        found = f"It contains other files: {examples(others)}." if others else "It is empty."
        raise DatasetError(
            f"{where} contains no file that ends with {' or '.join(suffixes)} "
            f"('{kind}_suffix' in the dataset's YAML). {found}{_prepare_hint(dataset, split)}"
        )
    return files


def _check_names(paths: list[Path], where: str) -> None:
    """Raise DatasetError for names that are not UTF-8, which result files cannot contain."""
    wrong = [path for path in paths if not (path.name.startswith(".") or _is_utf8(path))]
    if wrong:
        names = ", ".join(ascii(os.fsencode(path.name)) for path in wrong[:_NUM_EXAMPLES])
        more = ", ..." if len(wrong) > _NUM_EXAMPLES else ""
        files = counted(len(wrong), "file")
        message = f"{where} contains {files} with names that are not UTF-8: {names}{more}."
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        raise DatasetError(f"{message} Rename them.")


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _count(paths: list[Path], what: str) -> str:
    return f"1 {what} has" if len(paths) == 1 else f"{len(paths)} {what}s have"


def examples(paths: list[Path]) -> str:
    """The names of the first files as text."""
    shown = ", ".join(path.name for path in paths[:_NUM_EXAMPLES])
    return shown if len(paths) <= _NUM_EXAMPLES else f"{shown}, ..."
