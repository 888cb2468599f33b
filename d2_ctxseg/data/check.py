"""Reads every image and label of a dataset and reports what is wrong and what is in it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .errors import DatasetError
from .folder_dataset import FolderDataset
from .images import ALL_CHANNELS, orientation_of, read_image
from .labels import LabelFormat, check_label_values, check_same_size, read_label
from .pairing import SKIPPED_FILE, examples, list_images, pair_split
from .registration import folder_dataset_of


@dataclass
class CheckReport:
    """What the check of one split found.

    Attributes:
        name: the registered name.
        num_images: how many images there are.
        num_pairs: how many of them have a label.
        labelled: whether they are to have labels. False: only the images are checked.
        problems: one sentence each; empty if the dataset can be used.
        notes: what is no error, but should be known: one sentence each.
        classes: class names.
        pixels: number of pixels of each class, in all labels that could be read.
        images: number of images each class appears in.
        ignored_pixels: number of pixels with the ignore label.
    """

    name: str
    num_images: int = 0
    num_pairs: int = 0
    labelled: bool = True
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    ignored_pixels: int = 0

    def as_dict(self) -> dict:
        """The report as plain values, for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """The report as a table of the classes, if there are labels, followed by the problems."""
        if self.labelled:
            lines = [f"{self.name}: {self.num_pairs} pairs of image and label", *self._table()]
        else:
            lines = [f"{self.name}: {self.num_images} images without labels"]
        lines.append(f"  {len(self.problems)} problems" if self.problems else "  No problems.")
        lines.extend(f"  - {problem}" for problem in self.problems)
        lines.extend(f"  Note: {note}" for note in self.notes)
        return "\n".join(lines)

    def _table(self) -> list[str]:
        total = sum(self.pixels) + self.ignored_pixels
        width = max(len(name) for name in [*self.classes, "(ignored)"])
        lines = [f"  {'':>5} {'class':<{width}} {'pixels':>13} {'share':>8} {'images':>7}"]
        rows = zip(range(len(self.classes)), self.classes, self.pixels, self.images)
        for index, name, pixels, images in rows:
            share = _percent(pixels, total)
            lines.append(f"  {index:>5} {name:<{width}} {pixels:>13} {share:>8} {images:>7}")
        share = _percent(self.ignored_pixels, total)
        lines.append(f"  {'':>5} {'(ignored)':<{width}} {self.ignored_pixels:>13} {share:>8}")
        return lines


def check_dataset(name: str, num_workers: int | None = None) -> CheckReport:
    """Check a registered split: its pairs, all its files, and the values of its labels.

    Of a split without labels the images are checked. Shows a progress bar. Problems do not stop
    it; they are collected.

    Args:
        name: a name of DatasetCatalog that was registered from a YAML file.
        num_workers: threads that read files; None: Python's default.

    Raises:
        DatasetError: ``name`` is not the name of a folder dataset.
    """
    dataset, split = folder_dataset_of(name)
    report = CheckReport(
        name,
        classes=list(dataset.classes),
        pixels=[0] * len(dataset.classes),
        images=[0] * len(dataset.classes),
        labelled=dataset.has_labels(split),
    )
    try:
        if report.labelled:
            pairing = pair_split(dataset, split)
            report.num_images = len(pairing.pairs) + len(pairing.images_without_label)
            report.num_pairs = len(pairing.pairs)
            report.problems.extend(pairing.problems())
            if pairing.skipped:
                skipped = pairing.label_folder / SKIPPED_FILE
                report.notes.append(f"{skipped} leaves out {pairing.skipped} pairs.")
            _check_pairs(dataset, list(pairing.pairs.values()), report, num_workers)
        else:
            _, images = list_images(dataset, split)
            report.num_images = len(images)
            _check_images(dataset, list(images.values()), report, num_workers)
    except DatasetError as error:
        report.problems.append(str(error))
    return report


def _check_images(dataset: FolderDataset, images, report: CheckReport, num_workers) -> None:
    def look(path: Path) -> _Image:
        return _look_at(path, dataset.value_range)[0]

    with ThreadPoolExecutor(num_workers) as pool:
        found = list(tqdm(pool.map(look, images), report.name, len(images), unit="image"))
    report.problems.extend(sorted(image.problem for image in found if image.problem))
    report.notes.extend(_notes(found, dataset))


def _check_pairs(dataset: FolderDataset, pairs, report: CheckReport, num_workers) -> None:
    check = partial(
        _check_pair,
        label_format=LabelFormat(len(dataset.classes), dataset.ignore_label, dataset.id_map),
        value_range=dataset.value_range,
    )
    problems, images = [], []
    with ThreadPoolExecutor(num_workers) as pool:
        for found in tqdm(pool.map(check, pairs), report.name, len(pairs), unit="pair"):
            image, counts, ignored, of_pair = found
            images.append(image)
            problems.extend(of_pair)
            report.ignored_pixels += ignored
            for index, count in enumerate(counts):
                report.pixels[index] += count
                report.images[index] += count > 0
    report.problems.extend(sorted(problems))
    if report.ignored_pixels and not any(report.pixels):
        report.problems.append(
            f"The labels have no pixel of a class: all are ignored (label "
            f"{dataset.ignore_label}). See 'ignore_label' and 'id_map' in {dataset.source}."
        )
    report.notes.extend(_notes(images, dataset))


@dataclass(frozen=True)
class _Image:
    """What is known of an image file; ``channels`` 0: there is a ``problem``."""

    path: Path
    channels: int = 0
    is_turned: bool = False
    is_cut: bool = False
    problem: str | None = None


def _look_at(path: Path, value_range) -> tuple[_Image, np.ndarray | None]:
    try:
        pixels = read_image(path, ALL_CHANNELS, value_range)
    except DatasetError as error:
        return _Image(path, problem=str(error)), None
    is_cut = value_range is not None and bool(pixels.min() < 0 or pixels.max() > 255.001)
    return _Image(path, pixels.shape[2], orientation_of(path) != 1, is_cut), pixels


def _check_pair(pair: tuple[Path, Path], label_format: LabelFormat, value_range):
    """The image, pixels of each class, ignored pixels, and the problems of one pair."""
    image_path, label_path = pair
    image, pixels = _look_at(image_path, value_range)
    problems = [image.problem] if image.problem else []
    counts, ignored = [0] * label_format.num_classes, 0
    try:
        label = read_label(label_path, label_format.id_map)
    except DatasetError as error:
        return image, counts, ignored, [*problems, str(error)]
    inside = label[(label >= 0) & (label < label_format.num_classes)]
    counts = np.bincount(inside, minlength=label_format.num_classes).tolist()
    ignored = int((label == label_format.ignore_label).sum())
    try:
        check_label_values(label, label_format, label_path)
    except DatasetError as error:
        problems.append(str(error))
    try:
        check_same_size(label if pixels is None else pixels, label, image_path, label_path)
    except DatasetError as error:
        problems.append(str(error))
    return image, counts, ignored, problems


def _notes(images: list[_Image], dataset: FolderDataset) -> list[str]:
    notes = []
    if turned := [image.path for image in images if image.is_turned]:
        notes.append(
            f"{len(turned)} images have an EXIF orientation ({examples(turned)}): they are turned "
            "upright, as Detectron2 does it, and their labels must lie on the upright image."
        )
    if cut := [image.path for image in images if image.is_cut]:
        notes.append(
            f"{len(cut)} images have values outside of 'value_range' {list(dataset.value_range)} "
            f"({examples(cut)}): INPUT.FORMAT 'RGB' and 'BGR' cut them off."
        )
    channels = Counter(image.channels for image in images if image.channels)
    if len(channels) > 1 and max(channels) > 3:
        found = ", ".join(f"{number} in {count}" for number, count in sorted(channels.items()))
        notes.append(
            f"The images have different numbers of channels ({found} images), which INPUT.FORMAT "
            f"'{ALL_CHANNELS}' cannot hold."
        )
    return notes


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.2f}%" if total else "-"
