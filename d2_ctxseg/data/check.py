"""Reads every image and label of a dataset and reports what is wrong and what is in it."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .errors import DatasetError
from .folder_dataset import FolderDataset
from .images import read_image
from .labels import LabelFormat, check_label_values, check_same_size, read_label
from .pairing import list_images, pair_split
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
            _check_pairs(dataset, list(pairing.pairs.values()), report, num_workers)
        else:
            _, images = list_images(dataset, split)
            report.num_images = len(images)
            _check_images(images.values(), report, num_workers)
    except DatasetError as error:
        report.problems.append(str(error))
    return report


def _check_images(images, report: CheckReport, num_workers) -> None:
    with ThreadPoolExecutor(num_workers) as pool:
        problems = tqdm(pool.map(_check_image, images), report.name, len(images), unit="image")
        report.problems.extend(sorted(problem for problem in problems if problem is not None))


def _check_image(path: Path) -> str | None:
    try:
        read_image(path, "RGB")
    except DatasetError as error:
        return str(error)
    return None


def _check_pairs(dataset: FolderDataset, pairs, report: CheckReport, num_workers) -> None:
    label_format = LabelFormat(len(dataset.classes), dataset.ignore_label, dataset.label_map)
    problems = []
    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(_check_pair, *pair, label_format) for pair in pairs]
        for future in tqdm(as_completed(futures), report.name, len(futures), unit="pair"):
            counts, ignored, found = future.result()
            problems.extend(found)
            report.ignored_pixels += ignored
            for index, count in enumerate(counts):
                report.pixels[index] += count
                report.images[index] += count > 0
    report.problems.extend(sorted(problems))


def _check_pair(image_path: Path, label_path: Path, label_format: LabelFormat):
    """Pixels of each class, ignored pixels, and the problems of one pair."""
    problems = []
    counts, ignored = [0] * label_format.num_classes, 0
    image = label = None
    try:
        image = read_image(image_path, "RGB")
    except DatasetError as error:
        problems.append(str(error))
    try:
        label = read_label(label_path, label_format.label_map)
        inside = label[(label >= 0) & (label < label_format.num_classes)]
        counts = np.bincount(inside, minlength=label_format.num_classes).tolist()
        ignored = int((label == label_format.ignore_label).sum())
        check_label_values(label, label_format, label_path)
    except DatasetError as error:
        problems.append(str(error))
    if image is not None and label is not None:
        try:
            check_same_size(image, label, image_path, label_path)
        except DatasetError as error:
            problems.append(str(error))
    return counts, ignored, problems


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.2f}%" if total else "-"
