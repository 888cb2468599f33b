"""Predictions as files: label images with the dataset's own ids, and COCO's format."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util

from ..data import DatasetError
from ..utils.files import atomic_write
from ..utils.png import write_png

LABELS_FOLDER = "predictions"
COCO_FILE = "sem_seg_predictions.json"
_NUM_VALUES = 1 << 16


class PredictionWriter:
    """Writes each prediction at once; no prediction is kept in memory.

    ``folder`` gets ``predictions/{name of the image}.png`` with the dataset's own ids, the format
    of the ADE20K and Cityscapes servers, and ``sem_seg_predictions.json``, the same as COCO RLE.

    Args:
        folder: output folder, which is created if needed.
        file_names: the files of all images of the dataset. Where two have the same name, the
            predictions are written to subfolders with the names of the images' folders.
        original_ids: class index -> the dataset's own id; None: they are the same.
        rank: rank of the worker.

    Raises:
        DatasetError: an id is above 65535, the largest value of a PNG.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        file_names: Sequence[str],
        original_ids: Mapping[int, int] | None = None,
        rank: int = 0,
    ):
        self.folder = Path(folder)
        self._names = _output_names(file_names)
        self._ids = original_ids
        self._table = None if original_ids is None else _id_table(original_ids)
        self._part = self._part_of(rank)
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._part.write_text("", encoding="utf-8")

    def write(self, file_name: str, labels: np.ndarray) -> None:
        """Save the predicted label map (H, W) of class indices of an image."""
        values = labels if self._table is None else self._table[labels]
        write_label_image(self.folder / LABELS_FOLDER / self._names[file_name], values)
        with open(self._part, "a", encoding="utf-8") as file:
            for entry in encode_coco(labels, file_name, self._ids):
                file.write(json.dumps(entry) + "\n")

    def join(self, num_workers: int = 1) -> None:
        """Join the files of all workers; call it in one of them when all have finished."""
        parts = [self._part_of(rank) for rank in range(num_workers)]
        with atomic_write(self.folder / COCO_FILE) as file:
            file.write("[")
            separator = "\n"
            for part in parts:
                with open(part, encoding="utf-8") as lines:
                    for line in lines:
                        file.write(separator + line.rstrip("\n"))
                        separator = ",\n"
            file.write("\n]\n")
        for part in parts:
            part.unlink()

    def _part_of(self, rank: int) -> Path:
        return self.folder / f".{COCO_FILE}.{rank}.part"


def encode_coco(
    labels: np.ndarray, file_name: str, original_ids: Mapping[int, int] | None = None
) -> list[dict]:
    """Convert a label map to COCO's stuff results (https://cocodataset.org/#format-results).

    Args:
        labels: (H, W), class indices.
        file_name: file name of the image.
        original_ids: class index -> category id; None: they are the same.

    Returns:
        For each class present "file_name", "category_id" and "segmentation", its pixels as RLE.
    """
    entries = []
    for label in np.unique(labels).tolist():
        rle = mask_util.encode(np.asfortranarray(labels == label, dtype=np.uint8))
        rle["counts"] = rle["counts"].decode("utf-8")
        category = label if original_ids is None else original_ids[label]
        entries.append({"file_name": file_name, "category_id": category, "segmentation": rle})
    return entries


def write_label_image(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Write (H, W) values in 0..65535 as a PNG of 8 or, where needed, 16 bits, atomically."""
    labels = labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.uint16)
    write_png(path, labels)


def remove_predictions(folder: str | os.PathLike) -> None:
    """Delete the predictions of an earlier evaluation."""
    shutil.rmtree(Path(folder) / LABELS_FOLDER, ignore_errors=True)
    (Path(folder) / COCO_FILE).unlink(missing_ok=True)


def _output_names(file_names: Sequence[str]) -> dict[str, str]:
    """``{stem}.png`` for each image, in as many of its folders as make the names unique."""
    paths = {name: Path(name) for name in dict.fromkeys(file_names)}
    depth = 1
    while True:
        names = {
            name: Path(*path.parts[-depth:]).with_suffix(".png") for name, path in paths.items()
        }
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        if not twice:
            return {name: str(output) for name, output in names.items()}
        if depth > max(len(path.parts) for path in paths.values()):
            raise DatasetError(
                f"Two images of the dataset differ in their suffix only: {twice[0]}. Their "
                "predictions would overwrite each other."
            )
        depth += 1


def _id_table(original_ids: Mapping[int, int]) -> np.ndarray:
    """(K,) uint16: the id of each class index."""
    values = [original_ids[index] for index in range(len(original_ids))]
    if max(values) >= _NUM_VALUES or min(values) < 0:
        raise DatasetError(
            f"The dataset's own ids range from {min(values)} to {max(values)}, but the values of a "
            "label image are 0 to 65535."
        )
    return np.array(values, dtype=np.uint16)
