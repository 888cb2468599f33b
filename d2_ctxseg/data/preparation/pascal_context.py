"""PASCAL-Context with 59 and with 60 classes: what is made of the archives."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...utils.errors import UserError
from . import (
    Archive,
    ImageFile,
    LabelFile,
    Pair,
    Split,
    class_indices,
    draw_segments,
    matlab_reader,
    prepare_dataset,
    read_label,
    read_pascal_in_detail,
    read_source_ids,
)

# Kind of labels -> their location and number.
LABELS = {
    "mat": ("trainval", {"train": 4998, "val": 5105}),
    "json": ("trainval_merged.json", {"train": 4996, "val": 5104}),
    "mmseg": ("SegmentationClassContext", {"train": 4996, "val": 5104}),
}
MAX_LABEL = 459
ARCHIVE = Archive(
    "PASCAL-Context (VOCtrainval_03-May-2010.tar; trainval.tar.gz, unpacked inside of VOC2010, or "
    "trainval_merged.json)",
    (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
        "https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    """
    JPEGImages/2008_000002.jpg ...
    ImageSets/Main/train.txt, ImageSets/Main/val.txt
    trainval/2008_000002.mat ...
    labels.txt
    """,
    ("VOCdevkit/VOC2010",),
)


def list_labels(kind: str, source: Path, split: str) -> dict[str, tuple[Path, Callable]]:
    """Name of an image of a split -> its label file and a function that reads it."""
    path = source / LABELS[kind][0]
    if kind == "json":
        return {
            name: (path, partial(draw_segments, size=size, segments=segments))
            for name, (size, segments) in read_pascal_in_detail(path)[split].items()
        }
    lists = source / "ImageSets" / ("Main" if kind == "mat" else "SegmentationContext")
    suffix, read = (".mat", matlab_reader("LabelMap")) if kind == "mat" else (".png", read_label)
    names = ARCHIVE.need(lists / f"{split}.txt").read_text().split()
    return {name: (path / f"{name}{suffix}", read) for name in names}


def check_label_names(path: Path) -> None:
    """Raise UserError if labels.txt exists and has other ids for the 59 classes."""
    if not path.is_file():
        return
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    names = {number.strip(): name.strip() for number, _, name in lines}
    for number, name in read_source_ids("pascal_context").items():
        if names.get(str(number)) != name:
            raise UserError(
                f"{path} calls label {number} '{names.get(str(number))}', but in the official "
                f"release it is '{name}'. Take labels.txt and trainval from one archive."
            )


def id_maps(kind: str) -> dict[str, dict[int, int]]:
    """The id map of each variant."""
    classes, others = list(read_source_ids("pascal_context")), range(MAX_LABEL + 1)
    if kind == "mmseg":
        classes, others = range(1, len(classes) + 1), [0]
    return {
        "pc59": class_indices(classes, others),
        "pc60": class_indices(classes, others, ignore_label=0, first_index=1),
    }


def list_split(name: str, kind: str, source: Path, target: Path, copy: bool) -> list[Split]:
    """The labels of a split in both variants; the images belong to the first one."""
    labels, splits = list_labels(kind, source, name), []
    for variant, id_map in id_maps(kind).items():
        folder, pairs = target / "annotations_detectron2" / variant / name, []
        for key, (path, read) in labels.items():
            image = source / "JPEGImages" / f"{key}.jpg"
            label = LabelFile(path, folder / f"{key}.png", id_map, read, image)
            image_file = ImageFile(image, target / "images" / name / image.name, copy=copy)
            pairs.append(Pair(label, image_file if variant == "pc59" else None))
        splits.append(Split(f"{name} ({variant})", LABELS[kind][1][name], folder, pairs))
    return splits


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset`, ``copy_images`` and
    ``labels``.
    """
    source, target = ARCHIVE.find(arguments), arguments.root / "pascal_context"
    present = [kind for kind, (path, _) in LABELS.items() if (source / path).exists()]
    kind = arguments.labels or next(iter(present), "mat")
    print(f"Labels: {kind}, {source / LABELS[kind][0]}")
    if kind == "mat":
        check_label_names(source / "labels.txt")
    prepare_dataset(
        [
            split
            for name in LABELS[kind][1]
            for split in list_split(name, kind, source, target, arguments.copy_images)
        ],
        arguments,
        [f"pascal_context_{n}_sem_seg_{name}" for n in (59, 60) for name in LABELS[kind][1]],
    )
