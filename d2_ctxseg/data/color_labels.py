"""Turns label images whose colours stand for classes into ones that hold class indices."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .errors import DatasetError
from .folder_dataset import FolderDataset
from .pairing import pair_split

_NUM_EXAMPLES = 10


def convert_color_labels(
    dataset: FolderDataset,
    split: str,
    output: str | Path,
    ignored_colors: tuple[tuple[int, int, int], ...] = (),
) -> int:
    """Write the labels of a split as class indices to a new folder, all of them or none.

    Args:
        dataset: its ``palette`` says which colour is which class, its ``ignore_label`` becomes
            the value of the ignored colours.
        output: a folder that does not exist yet. Files keep their names.
        ignored_colors: colours (r, g, b) that stand for "no class".

    Returns:
        the number of files written.

    Raises:
        DatasetError: the folder exists, two classes share a colour, a file cannot be read, or one
            holds a colour that stands for nothing.
    """
    output = Path(output)
    if split not in dataset.splits:
        raise DatasetError(
            f"{dataset.source} has no split '{split}', only {', '.join(dataset.splits)}."
        )
    if output.exists():
        raise DatasetError(f"{output} exists already: name a folder that does not.")
    codes, values = _color_table(dataset, ignored_colors)
    pairing = pair_split(dataset, split)
    labels = sorted([label for _, label in pairing.pairs.values()] + pairing.labels_without_image)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as workplace:
        complete = Path(workplace) / "new"
        for path in tqdm(labels, "converting labels", unit="file"):
            target = complete / path.relative_to(pairing.label_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_convert(path, codes, values)).save(target)
        complete.rename(output)
    return len(labels)


def _color_table(dataset: FolderDataset, ignored_colors) -> tuple[np.ndarray, np.ndarray]:
    """Sorted colour codes and, for each, the value of the new label."""
    colors = [*dataset.palette, *ignored_colors]
    if len(set(colors)) < len(colors):
        raise DatasetError(
            f"{dataset.source}: two classes (or a class and an ignored colour) have one colour in "
            "'palette', so that colours cannot be turned into classes."
        )
    codes = _encode(np.array(colors))
    indices = [*range(len(dataset.classes)), *[dataset.ignore_label] * len(ignored_colors)]
    order = np.argsort(codes)
    value_type = np.uint8 if max(indices) <= 255 else np.uint16
    return codes[order], np.array(indices, dtype=value_type)[order]


def _convert(path: Path, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = _encode(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"Cannot read the label {path}: {error}") from error
    places = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
    unknown = np.unique(pixels[codes[places] != pixels])
    if unknown.size:
        shown = ", ".join(
            f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in unknown[:_NUM_EXAMPLES]
        )
        raise DatasetError(
            f"{path} holds {unknown.size} colours that stand for no class of 'palette', such as "
            f"{shown}. Name colours to be ignored with --ignore-color R,G,B."
        )
    return values[places]


def _encode(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as one integer each."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue
