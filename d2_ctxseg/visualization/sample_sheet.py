"""A sheet of images beside their labels, to check whether they fit."""

from collections.abc import Iterable
from functools import partial

import cv2
import numpy as np
from tqdm import tqdm

from detectron2.data import MetadataCatalog

from ..data.errors import DatasetError
from ..data.images import read_display_image
from ..data.labels import LabelFormat, check_same_size, read_label
from ..data.pairing import list_images, pair_split
from ..data.registration import folder_dataset_of
from .overlays import draw_labelled, draw_legend_strip

GAP = 8
TILE_WIDTH = 760
GROUND = 255


def draw_sample_sheet(name: str, num_samples: int = 12, seed: int = 0) -> np.ndarray:
    """A sheet of images of a registered split, drawn at random, each beside its labels.

    Of a split without labels the sheet shows the images. What cannot be read is left out:
    ``check_dataset`` names it. Shows a progress bar.

    Args:
        name: a name of DatasetCatalog that was registered from a YAML file.
        num_samples: number of images; all if there are fewer.
        seed: another one chooses others.

    Returns:
        uint8 RGB array (H, W, 3).

    Raises:
        DatasetError: ``name`` is no folder dataset, it is not there, or nothing can be read.
    """
    dataset, split = folder_dataset_of(name)
    if not dataset.has_labels(split):
        _, images = list_images(dataset, split)
        read = partial(read_display_image, value_range=dataset.value_range)
        files = [(images[key],) for key in sorted(images)]
        samples = _draw(name, files, read, num_samples, seed)
        if not samples:
            raise DatasetError(f"No image of '{name}' can be read.")
        return _sheet([_scaled(image) for image in samples])
    label_format = LabelFormat(len(dataset.classes), dataset.ignore_label, dataset.id_map)
    files = list(pair_split(dataset, split).pairs.values())
    read = partial(_read_pair, label_format=label_format, value_range=dataset.value_range)
    samples = _draw(name, files, read, num_samples, seed)
    if not samples:
        raise DatasetError(f"No pair of image and label of '{name}' can be read.")
    return labelled_sheet(samples, MetadataCatalog.get(name))


def _draw(name: str, files: list[tuple], read, num_samples: int, seed: int) -> list:
    """What ``read`` makes of up to ``num_samples`` of the files, drawn at random."""
    samples = []
    order = np.random.default_rng(seed).permutation(len(files))
    with tqdm(total=min(num_samples, len(files)), desc=f"{name} sheet", unit="image") as bar:
        for index in order:
            if len(samples) == num_samples:
                break
            try:
                samples.append(read(*files[index]))
            except DatasetError:
                continue
            bar.update()
    return samples


def labelled_sheet(
    samples: Iterable[tuple[np.ndarray, np.ndarray]],
    metadata,
    columns: int = 2,
    tile_width: int = TILE_WIDTH,
) -> np.ndarray:
    """Images beside their labels, and a legend of the classes that occur.

    Args:
        samples: RGB images uint8 (H, W, 3) and labels (H, W).
        metadata: Detectron2 ``Metadata`` with ``stuff_classes`` and perhaps ``stuff_colors``.
        columns: pairs in a row.
        tile_width: width of a pair in pixels.

    Returns:
        uint8 RGB array.
    """
    tiles, classes = [], set()
    for image, labels in samples:
        tiles.append(_scaled(draw_labelled(image, labels, metadata), tile_width))
        classes.update(np.unique(labels).tolist())
    sheet = _sheet(tiles, columns)
    legend = draw_legend_strip(metadata, np.array(sorted(classes)), sheet.shape[1])
    return np.concatenate([sheet, legend])


def _read_pair(image_path, label_path, label_format: LabelFormat, value_range):
    image = read_display_image(image_path, value_range)
    label = read_label(label_path, label_format.id_map)
    check_same_size(image, label, image_path, label_path)
    return image, label


def _scaled(drawing: np.ndarray, width: int = TILE_WIDTH) -> np.ndarray:
    height = max(round(drawing.shape[0] * width / drawing.shape[1]), 1)
    return cv2.resize(drawing, (width, height), interpolation=cv2.INTER_AREA)


def _sheet(tiles: list[np.ndarray], columns: int = 2) -> np.ndarray:
    """Tiles of one width in rows."""
    rows = [_row(tiles[i : i + columns], columns) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _row(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one width side by side, with gaps, as wide as a full row."""
    height, width = max(tile.shape[0] for tile in tiles), tiles[0].shape[1]
    row = np.full((height + GAP, columns * (width + GAP) - GAP, 3), GROUND, np.uint8)
    for number, tile in enumerate(tiles):
        left = number * (width + GAP)
        row[: tile.shape[0], left : left + width] = tile
    return row
