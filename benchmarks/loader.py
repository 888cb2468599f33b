#!/usr/bin/env python3
"""Compare the time to load a training image, from its files to its tensors, between libraries.

    python benchmarks/loader.py --repeats 7
    python benchmarks/loader.py --only CamVid --repeats 15 --images 60

All implementations do the same work in one process and one thread: read image and label, resize by
0.5 to 2, crop with at most 75 % of one class, flip, change colours, convert to tensors. They are
interleaved on every image. CamVid is read from $DETECTRON2_DATASETS; the other datasets are
synthetic: smooth noise in files of the datasets' formats and sizes.

"before" is the first implementation of this project: a sequence of Detectron2's augmentations.
mmsegmentation's transforms are included if they can be imported. They need nothing compiled:

    pip install --no-deps --target mmseg mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine addict \\
        yapf ftfy regex prettytable termcolor platformdirs wcwidth rich
    PYTHONPATH=mmseg python benchmarks/loader.py
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from measurement import describe_environment
from tabulate import tabulate
from tqdm import tqdm

from d2_ctxseg import add_ctxseg_config
from d2_ctxseg.data import PadToSize, PhotometricDistortion, SemanticSegmentorMapper
from d2_ctxseg.data.augmentation import PhotometricTransform
from d2_ctxseg.data.labels import LabelFormat, check_label_values, read_label
from d2_ctxseg.data.mapper import build_resize
from d2_ctxseg.utils.errors import run_command
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image

IGNORE_LABEL = 255
FLOOR = "decoding by OpenCV (the floor)"


@dataclass
class Case:
    """A dataset, and the sizes that its images are resized and cropped to."""

    name: str
    short_edge: int
    long_edge: int
    crop: tuple[int, int]
    records: list[dict]

    def cfg(self, antialias: bool):
        """A config with the dataset's augmentations."""
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        cfg.merge_from_list(
            ["DATASETS.TRAIN", (self.name,), "INPUT.FORMAT", "RGB", "INPUT.ANTIALIAS", antialias]
            + ["INPUT.MIN_SIZE_TRAIN", (self.short_edge,), "INPUT.MAX_SIZE_TRAIN", self.long_edge]
            + ["INPUT.RATIO_RANGE", (0.5, 2.0), "INPUT.CROP.ENABLED", True]
            + ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", list(self.crop)]
            + ["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75, "INPUT.RANDOM_FLIP", "horizontal"]
            + ["INPUT.COLOR_AUG_SSD", True, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", IGNORE_LABEL]
        )
        return cfg


def camvid(num_images: int) -> Case:
    """The first training images of CamVid, 480 x 360."""
    name = "camvid_sem_seg_train"
    case = Case(name, 360, 1440, (256, 256), [])
    SemanticSegmentorMapper(case.cfg(False), is_train=True)  # registers the dataset
    case.records = DatasetCatalog.get(name)[:num_images]
    return case


def synthetic(name, folder, size, num_classes, suffix, num_images, edges, crop) -> Case:
    """A synthetic dataset: smooth noise and regions of classes, in files of a dataset's size."""
    generator, records = np.random.default_rng(0), []
    for i in range(num_images):
        image, label = folder / f"{name}_{i}{suffix}", folder / f"{name}_{i}_label.png"
        pixels = sum(noise(generator, size, cell, 3) * cell**0.8 for cell in (2, 8, 32, 128))
        cv2.imwrite(str(image), np.clip(128 + 6 * pixels, 0, 255).astype(np.uint8))
        classes = generator.choice(num_classes, 8, replace=False).astype(np.uint8)
        heights = np.stack([noise(generator, size, 96, 1) for _ in classes])
        cv2.imwrite(str(label), classes[heights.argmax(0)])
        records.append(
            {"file_name": str(image), "sem_seg_file_name": str(label), "dataset_name": name}
        )
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        stuff_classes=[str(i) for i in range(num_classes)], ignore_label=IGNORE_LABEL
    )
    return Case(name, *edges, crop, records)


def noise(generator, size, cell: int, channels: int) -> np.ndarray:
    """Smooth normal noise with a period of ``cell`` pixels: (H, W, C), or (H, W) for C = 1."""
    height, width = size
    coarse = generator.normal(size=(height // cell + 2, width // cell + 2, channels))
    return cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


class Before:
    """The first implementation of this project: each step creates a complete image."""

    def __init__(self, case: Case, antialias: bool):
        cfg = case.cfg(antialias)
        crop = T.RandomCrop_CategoryAreaConstraint("absolute", case.crop, 0.75, IGNORE_LABEL)
        self.augmentations = T.AugmentationList(
            [build_resize(cfg), crop, T.RandomFlip(), ColorsByNumPy("RGB")]
            + [PadToSize(case.crop, cfg.MODEL.PIXEL_MEAN, IGNORE_LABEL)]
        )
        self.label_format = LabelFormat.from_metadata(MetadataCatalog.get(case.name))

    def __call__(self, record: dict) -> dict:
        """Image and label as tensors."""
        label = read_label(record["sem_seg_file_name"], self.label_format.id_map)
        check_label_values(label, self.label_format, record["sem_seg_file_name"])
        label[label == self.label_format.ignore_label] = IGNORE_LABEL
        inputs = T.AugInput(read_image(record["file_name"], "RGB"), sem_seg=label)
        self.augmentations(inputs)
        image = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        return {"image": image, "sem_seg": torch.from_numpy(inputs.sem_seg.astype(np.int64))}


class ColorsByNumPy(PhotometricDistortion):
    """PhotometricDistortion with lookup tables in NumPy."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the parameters as PhotometricDistortion does."""
        return _ColorsByNumPy(super().get_transform(image))


class _ColorsByNumPy(PhotometricTransform):
    def __init__(self, drawn: PhotometricTransform):
        self.drawn = drawn

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Change the colours of an image, uint8 RGB (H, W, 3)."""
        drawn, img = self.drawn, np.ascontiguousarray(img)
        if drawn.brightness is not None:
            img = scaled(img, 1.0, drawn.brightness)
        if drawn.contrast is not None and not drawn.contrast_last:
            img = scaled(img, drawn.contrast, 0.0)
        if drawn.saturation is not None or drawn.hue is not None:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            if drawn.saturation is not None:
                hsv[..., 1] = scaled(hsv[..., 1], drawn.saturation, 0.0)
            if drawn.hue is not None:
                hsv[..., 0] = (hsv[..., 0].astype(np.int16) + drawn.hue) % 180
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if drawn.contrast is not None and drawn.contrast_last:
            img = scaled(img, drawn.contrast, 0.0)
        return img


def scaled(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """``values * factor + offset``, rounded and limited to 0-255; uint8 in and out."""
    table = np.clip(np.rint(np.arange(256) * factor + offset), 0, 255).astype(np.uint8)
    return table[values]


def decode(record: dict) -> None:
    """Decode both files, without further work."""
    for key, flag in (
        ("file_name", cv2.IMREAD_COLOR),
        ("sem_seg_file_name", cv2.IMREAD_UNCHANGED),
    ):
        cv2.imdecode(np.fromfile(record[key], np.uint8), flag)


def mmsegmentation(case: Case) -> Callable[[dict], dict] | None:
    """mmsegmentation's transforms with its usual settings; None if it is not installed."""
    # The import includes mmcv's compiled operators, which the transforms do not use.
    operators = types.ModuleType("mmcv.ops")
    operators.point_sample = None
    sys.modules.setdefault("mmcv.ops", operators)
    try:
        from mmcv.transforms import Compose, LoadImageFromFile, RandomFlip, RandomResize
        from mmseg.datasets import transforms as M
    except ImportError as error:
        print(f"mmsegmentation is left out: {error}", file=sys.stderr)
        return None
    pipeline = Compose(
        [LoadImageFromFile(), M.LoadAnnotations()]
        + [RandomResize((case.long_edge, case.short_edge), (0.5, 2.0), keep_ratio=True)]
        + [M.RandomCrop(case.crop, cat_max_ratio=0.75), RandomFlip(prob=0.5)]
        + [M.PhotoMetricDistortion(), M.PackSegInputs()]
    )

    def call(record: dict) -> dict:
        result = {"img_path": record["file_name"], "seg_map_path": record["sem_seg_file_name"]}
        return pipeline({**result, "seg_fields": [], "reduce_zero_label": False, "label_map": None})

    return call


def implementations(case: Case) -> dict[str, Callable[[dict], object]]:
    """Name -> implementation to measure."""
    result = {FLOOR: decode}
    for antialias, how in ((False, "OpenCV's bilinear"), (True, "antialiased")):
        mapper = SemanticSegmentorMapper(case.cfg(antialias), is_train=True)
        result[f"{how}: SemanticSegmentorMapper"] = mapper
        result[f"{how}: before"] = Before(case, antialias)
    result["OpenCV's bilinear: mmsegmentation"] = mmsegmentation(case)
    return {name: call for name, call in result.items() if call}


def measure(case: Case, repeats: int, progress) -> dict[str, list[float]]:
    """Name -> mean seconds per image of each repeat; implementations alternate on each image."""
    calls = implementations(case)
    order, shuffler = list(calls), random.Random(0)
    seconds = {name: np.zeros((repeats, len(case.records))) for name in calls}
    for name, record in itertools.product(calls, case.records[:3]):
        calls[name](record)
    for repeat, (number, record) in itertools.product(range(repeats), enumerate(case.records)):
        shuffler.shuffle(order)
        for name in order:
            np.random.seed(repeat * len(case.records) + number)  # noqa: NPY002 (all use it)
            start = time.perf_counter()
            calls[name](record)
            seconds[name][repeat, number] = time.perf_counter() - start
        progress.update()
    return {name: values.mean(1).tolist() for name, values in seconds.items()}


def format_table(seconds: dict[str, list[float]]) -> str:
    """The medians over the repeats, with ratios to decoding alone and to this project."""
    medians = {name: np.median(values) for name, values in seconds.items()}
    rows = []
    for name, median in medians.items():
        how = name.split(":")[0]
        ours = medians.get(f"{how}: SemanticSegmentorMapper")
        paired = np.divide(seconds[name], seconds[FLOOR])
        to_ours = f"{median / ours:.2f}" if ours else "–"
        rows.append([name, f"{1e3 * median:.2f}", f"{np.median(paired):.2f}", to_ours])
    headers = ["", "ms per image", "× floor", "× SemanticSegmentorMapper"]
    return tabulate(rows, headers, "github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("CamVid", "ADE20K", "Cityscapes")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="datasets")
    parser.add_argument("--repeats", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--images", type=int, default=30, help="per dataset (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(", ".join(f"{k} {v}" for k, v in describe_environment(torch.device("cpu")).items()))
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        makers = {
            "CamVid": lambda n: camvid(n),
            "ADE20K": lambda n: synthetic(
                *("ADE20K", Path(folder), (512, 683), 150, ".jpg", n, (512, 2048), (512, 512)),
            ),
            "Cityscapes": lambda n: synthetic(
                *("Cityscapes", Path(folder), (1024, 2048), 19, ".png", n, (1024, 2048)),
                (512, 1024),
            ),
        }
        for name in arguments.only:
            case = makers[name](arguments.images)
            sizes = [Path(record["file_name"]).stat().st_size for record in case.records]
            with tqdm(total=arguments.repeats * len(case.records), desc=name) as progress:
                seconds = measure(case, arguments.repeats, progress)
            title = f"{name}: files of {np.mean(sizes) / 1024:.0f} KiB, crop {case.crop}"
            print(f"\n{title}\n\n{format_table(seconds)}")


if __name__ == "__main__":
    run_command(main)
