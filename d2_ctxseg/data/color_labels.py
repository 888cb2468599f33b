"""Convert label images with colours for classes to label images with class indices."""

import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .errors import DatasetError
from .folder_dataset import FolderDataset
from .pairing import pair_split
from .palette import generate_palette

_NUM_EXAMPLES = 10
# A few more colours than classes stand for "no class"; many more come from a wrong palette or from
# compression.
_MOST_IGNORED_COLORS = 8

Color = tuple[int, int, int]


def convert_color_labels(
    dataset: FolderDataset,
    split: str,
    output: str | Path,
    ignored_colors: tuple[Color, ...] = (),
) -> int:
    """Write the labels of a split as class indices to a new folder, all of them or none.

    Args:
        dataset: its ``palette`` holds the colour of each class, and its ``ignore_label`` is
            written for the ignored colours.
        split: a split of the dataset.
        output: a folder that does not exist yet. Files keep their names.
        ignored_colors: colours (r, g, b), 0-255, that stand for "no class".

    Returns:
        The number of files written.

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
        raise DatasetError(f"{output} already exists: name a new folder.")
    codes, values = _color_table(dataset, ignored_colors)
    pairing = pair_split(dataset, split)
    labels = sorted([label for _, label in pairing.pairs.values()] + pairing.labels_without_image)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        complete = Path(folder) / "new"
        for path in tqdm(labels, "converting labels", unit="file"):
            target = complete / path.relative_to(pairing.label_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_convert(path, codes, values)).save(target)
        complete.rename(output)
    return len(labels)


def unknown_colors(path: str | Path, palette: Iterable[Color]) -> set[Color]:
    """The colours of a label image that are not in ``palette``.

    Raises:
        DatasetError: the file cannot be read.
    """
    codes = np.setdiff1d(_encode(_read_colors(Path(path))), _encode(np.array(list(palette))))
    return set(map(_decode, codes.tolist()))


def conversion_hint(dataset: FolderDataset, split: str, unknown: Iterable[Color]) -> str:
    """What to do about colour labels: the command that converts them, with all its arguments.

    Args:
        dataset: the dataset of the labels.
        split: the split of the labels.
        unknown: their colours that are not in the palette, see :func:`unknown_colors`.
    """
    unknown = sorted(unknown)
    shown = ", ".join(map(str, unknown[:_NUM_EXAMPLES]))
    if dataset.palette == generate_palette(len(dataset.classes)):
        return (
            f"The labels hold colours, and {dataset.source} has no 'palette'. Add it: one [red, "
            f"green, blue] for each class. Colours in the labels: {shown}. Then check again."
        )
    if len(unknown) > _MOST_IGNORED_COLORS:
        return (
            f"The labels hold at least {len(unknown)} colours that are not in 'palette' of "
            f"{dataset.source}, such as {shown}. Correct 'palette'. If the labels are JPEG files "
            "or were resized, their colours are no longer exact: take the originals."
        )
    labels = f"labels_indexed/{split}"
    folder = shlex.quote(str(dataset.resolve_root() / labels))  # the YAML counts from there
    ignored = "".join(f" --ignore-color {','.join(map(str, color))}" for color in unknown)
    command = f"{shlex.quote(str(dataset.source))} {shlex.quote(split)} --output {folder}{ignored}"
    return (
        f"Convert the labels once: d2-ctxseg convert-labels {command} and name "
        f"{labels} as 'labels' of the split in {dataset.source}."
    )


def _color_table(dataset: FolderDataset, ignored_colors) -> tuple[np.ndarray, np.ndarray]:
    """Sorted colour codes and, for each, the value of the new label."""
    colors = [*dataset.palette, *ignored_colors]
    if len(set(colors)) < len(colors):
        raise DatasetError(
            f"{dataset.source}: two classes (or a class and an ignored colour) have the same "
            "colour in 'palette', so a colour does not identify a class. Give each its own colour."
        )
    codes = _encode(np.array(colors))
    indices = [*range(len(dataset.classes)), *[dataset.ignore_label] * len(ignored_colors)]
    order = np.argsort(codes)
    value_type = np.uint8 if max(indices) <= 255 else np.uint16
    return codes[order], np.array(indices, dtype=value_type)[order]


def _convert(path: Path, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    pixels = _encode(_read_colors(path))
    places = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
    unknown = np.unique(pixels[codes[places] != pixels])
    if unknown.size:
        shown = ", ".join(str(_decode(code)) for code in unknown[:_NUM_EXAMPLES].tolist())
        number = "1 colour that is" if unknown.size == 1 else f"{unknown.size} colours that are"
        raise DatasetError(
            f"{path} holds {number} not in 'palette': {shown}. Add the colours of classes to "
            "'palette' in the dataset's YAML, and name those of no class with --ignore-color R,G,B."
        )
    return values[places]


def _read_colors(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"Cannot read the label {path}: {error}") from error


def _decode(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def _encode(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as one integer each."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue
