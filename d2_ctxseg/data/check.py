"""Read every image and label of a dataset, and report problems and statistics."""

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .color_labels import Color, conversion_hint, unknown_colors
from .errors import DatasetError
from .folder_dataset import FolderDataset
from .images import ALL_CHANNELS, orientation_of, read_image
from .labels import (
    ColorLabelError,
    LabelFormat,
    check_label_values,
    check_same_size,
    read_label,
)
from .pairing import SKIPPED_FILE, examples, list_images, pair_split
from .registration import folder_dataset_of

_NUM_EXAMPLES = 3
# Of labels with colours that are in no palette, such as JPEG files, no more colours are collected.
_ENOUGH_COLORS = 1000
# Numbers and lists of them, as the messages about labels have them.
_NUMBERS = re.compile(r"\d+(, \d+)*(, \.\.\. \(\d+ in all\))?")


@dataclass
class CheckReport:
    """The result of the check of one split.

    Attributes:
        name: the registered name.
        num_images: number of images.
        num_pairs: number of images with a label.
        labelled: whether the split has labels. False: only the images are checked.
        problems: one sentence each; empty if the dataset can be used.
        summary: the problems, equal ones of several files as one with their number.
        notes: what is no error but should be known, and what to do: one sentence each.
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
    summary: list[str] = field(default_factory=list)
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
            pairs = "1 pair" if self.num_pairs == 1 else f"{self.num_pairs} pairs"
            lines = [f"{self.name}: {pairs} of image and label", *self._table()]
        else:
            images = "1 image" if self.num_images == 1 else f"{self.num_images} images"
            lines = [f"{self.name}: {images} without labels"]
        lines.append(_problems(len(self.problems)) if self.problems else "  No problems.")
        lines.extend(f"  - {problem}" for problem in self.summary)
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
            _add(report, [Problem(text) for text in pairing.problems()])
            if pairing.skipped:
                skipped = pairing.label_folder / SKIPPED_FILE
                pairs = "1 pair" if pairing.skipped == 1 else f"{pairing.skipped} pairs"
                report.notes.append(f"{skipped} leaves out {pairs}.")
            _check_pairs(dataset, split, list(pairing.pairs.values()), report, num_workers)
        else:
            _, images = list_images(dataset, split)
            report.num_images = len(images)
            _check_images(dataset, list(images.values()), report, num_workers)
    except DatasetError as error:
        _add(report, [Problem(str(error))])
    return report


@dataclass(frozen=True, order=True)
class Problem:
    """A problem, and the files that its text names."""

    text: str
    files: tuple[Path, ...] = ()

    @property
    def kind(self) -> str:
        """The text without the names of files and without numbers."""
        text = self.text
        for path in self.files:
            text = text.replace(str(path), "")
        return _NUMBERS.sub("#", text)


def summarize(problems: Sequence[Problem]) -> list[str]:
    """Problems of one kind as one text: their number, the first in full, and two more files."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    return [_summary(of_kind) for of_kind in kinds.values()]


def _summary(problems: Sequence[Problem]) -> str:
    first, *others = problems
    if not others:
        return first.text
    # The label's name where both are named: it is what is wrong more often.
    names = ", ".join(str(problem.files[-1]) for problem in others[: _NUM_EXAMPLES - 1])
    left = len(others) - (_NUM_EXAMPLES - 1)
    more = f" and {left} more" if left > 0 else ""
    return f"{len(problems)} times: {first.text} Also: {names}{more}."


def _add(report: CheckReport, problems: Sequence[Problem]) -> None:
    report.problems.extend(problem.text for problem in problems)
    report.summary.extend(summarize(problems))


def _check_images(dataset: FolderDataset, images, report: CheckReport, num_workers) -> None:
    def look(path: Path) -> _Image:
        return _look_at(path, dataset.value_range)[0]

    with ThreadPoolExecutor(num_workers) as pool:
        found = list(tqdm(pool.map(look, images), report.name, len(images), unit="image"))
    _add(report, sorted(image.problem for image in found if image.problem))
    report.notes.extend(_notes(found, dataset))


def _check_pairs(
    dataset: FolderDataset, split: str, pairs, report: CheckReport, num_workers
) -> None:
    check = partial(
        _check_pair,
        label_format=LabelFormat(len(dataset.classes), dataset.ignore_label, dataset.id_map),
        value_range=dataset.value_range,
        palette=dataset.palette,
    )
    problems, images, unknown = [], [], None
    with ThreadPoolExecutor(num_workers) as pool:
        for found in tqdm(pool.map(check, pairs), report.name, len(pairs), unit="pair"):
            images.append(found.image)
            problems.extend(found.problems)
            report.ignored_pixels += found.ignored
            for index, count in enumerate(found.counts):
                report.pixels[index] += count
                report.images[index] += count > 0
            if found.unknown_colors is not None and len(unknown or ()) < _ENOUGH_COLORS:
                unknown = (unknown or set()) | found.unknown_colors
    _add(report, sorted(problems))
    if report.ignored_pixels and not any(report.pixels):
        text = (
            f"The labels have no pixel of a class: all are ignored (label "
            f"{dataset.ignore_label}). See 'ignore_label' and 'id_map' in {dataset.source}."
        )
        _add(report, [Problem(text)])
    if unknown is not None:
        report.notes.append(conversion_hint(dataset, split, unknown))
    report.notes.extend(_notes(images, dataset))


@dataclass(frozen=True)
class _Image:
    """What is known of an image file; ``channels`` is 0 where there is a ``problem``."""

    path: Path
    channels: int = 0
    is_turned: bool = False
    is_cut: bool = False
    problem: Problem | None = None


def _look_at(path: Path, value_range) -> tuple[_Image, np.ndarray | None]:
    try:
        pixels = read_image(path, ALL_CHANNELS, value_range)
    except DatasetError as error:
        return _Image(path, problem=Problem(str(error), (path,))), None
    is_cut = value_range is not None and bool(pixels.min() < 0 or pixels.max() > 255.001)
    return _Image(path, pixels.shape[2], orientation_of(path) != 1, is_cut), pixels


@dataclass
class _Pair:
    """What is known of an image and its label.

    Attributes:
        image: content of the image file.
        problems: problems of both files.
        counts: pixels of each class.
        ignored: pixels with the ignore label.
        unknown_colors: of a label with colours, those that are not in the palette; else None.
    """

    image: _Image
    problems: list[Problem]
    counts: list[int]
    ignored: int = 0
    unknown_colors: set[Color] | None = None


def _check_pair(files: tuple[Path, Path], label_format: LabelFormat, value_range, palette) -> _Pair:
    image_path, label_path = files
    image, pixels = _look_at(image_path, value_range)
    problems = [image.problem] if image.problem else []
    pair = _Pair(image, problems, [0] * label_format.num_classes)
    try:
        label = read_label(label_path, label_format.id_map)
    except DatasetError as error:
        problems.append(Problem(str(error), (label_path,)))
        if isinstance(error, ColorLabelError):
            pair.unknown_colors = unknown_colors(label_path, palette)
        return pair
    inside = label[(label >= 0) & (label < label_format.num_classes)]
    pair.counts = np.bincount(inside, minlength=label_format.num_classes).tolist()
    pair.ignored = int((label == label_format.ignore_label).sum())
    try:
        check_label_values(label, label_format, label_path)
    except DatasetError as error:
        problems.append(Problem(str(error), (label_path,)))
    try:
        check_same_size(label if pixels is None else pixels, label, image_path, label_path)
    except DatasetError as error:
        problems.append(Problem(str(error), (image_path, label_path)))
    return pair


def _notes(images: list[_Image], dataset: FolderDataset) -> list[str]:
    notes = []
    if turned := [image.path for image in images if image.is_turned]:
        notes.append(
            f"{_images(turned)} an EXIF orientation ({examples(turned)}). Images are turned "
            "upright, as Detectron2 does, and a label must fit the upright image."
        )
    if cut := [image.path for image in images if image.is_cut]:
        notes.append(
            f"{_images(cut)} values outside of 'value_range' {list(dataset.value_range)} "
            f"({examples(cut)}): INPUT.FORMAT 'RGB' and 'BGR' clip them."
        )
    channels = Counter(image.channels for image in images if image.channels)
    if len(channels) > 1 and max(channels) > 3:
        found = ", ".join(f"{number} in {count}" for number, count in sorted(channels.items()))
        notes.append(
            f"The images have different numbers of channels ({found} images), which INPUT.FORMAT "
            f"'{ALL_CHANNELS}' cannot hold."
        )
    return notes


def _images(paths: Sequence[Path]) -> str:
    return "1 image has" if len(paths) == 1 else f"{len(paths)} images have"


def _problems(number: int) -> str:
    return "  1 problem" if number == 1 else f"  {number} problems"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.2f}%" if total else "-"
