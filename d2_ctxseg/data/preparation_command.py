"""What the scripts ``datasets/prepare_*.py`` have in common: options, checks and messages."""

import argparse
import inspect
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import MissingFileError, UserError
from .folder_dataset import DATASETS_VARIABLE, datasets_root
from .preparation import FolderLink, ImageFile, LabelFile
from .preparation_run import estimate_bytes, prepare_files

_NUM_SHOWN = 20


@dataclass(frozen=True)
class Archive:
    """Where the official files come from.

    Attributes:
        name: of the dataset.
        pages: the official download pages.
        layout: what the unpacked archives look like, one path a line, below the source folder.
    """

    name: str
    pages: tuple[str, ...]
    layout: str

    def missing(self, what: Path) -> MissingFileError:
        """The error for a file or folder of the archives that is not there."""
        layout = textwrap.indent(inspect.cleandoc(self.layout), "  ")
        return MissingFileError(
            f"{what.absolute()} does not exist.\n{self.name} is to be fetched from "
            f"{' and '.join(self.pages)} (please see the terms of use there) and unpacked to this "
            f"layout, or --source is to name the folder it is in:\n{layout}"
        )


@dataclass(frozen=True)
class Split:
    """The files of one split.

    Attributes:
        name: the split's name in the official archives.
        official_count: how many labels it has officially.
        labels: the label files to make.
        images: the images to put in place, if they are not used where they are.
        missing: files that a list of the archives names and that are not there.
    """

    name: str
    official_count: int
    labels: Sequence[LabelFile]
    images: Sequence[ImageFile] = ()
    missing: Sequence[Path] = ()


def preparation_parser(description: str, default_source: str) -> argparse.ArgumentParser:
    """The options all scripts have; a script may add its own.

    Args:
        default_source: where the unpacked archives are looked for, relative to ``--root``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root(),
        help=f"folder of the datasets, by default ${DATASETS_VARIABLE} or ./datasets "
        "(now: %(default)s)",
    )
    parser.add_argument(
        "--source",
        type=Path,
        help=f"folder of the unpacked archives (default: ROOT/{default_source})",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one for each core)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--overwrite", action="store_true", help="write also the files that are there already"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the files that are there already, pixel by pixel, with what would be written",
    )
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="accept other numbers of files than the official ones (partial copies)",
    )
    parser.set_defaults(default_source=default_source)
    return parser


def source_folder(arguments: argparse.Namespace, archive: Archive) -> Path:
    """The folder of the unpacked archives.

    Raises:
        MissingFileError: it is not there.
    """
    source = (arguments.source or arguments.root / arguments.default_source).expanduser()
    if not source.is_dir():
        raise archive.missing(source)
    return source


def list_folder(folder: Path, pattern: str, archive: Archive) -> list[Path]:
    """The files below ``folder`` that match ``pattern``, sorted, hidden ones left out.

    Raises:
        MissingFileError: the folder is not there.
    """
    if not folder.is_dir():
        raise archive.missing(folder)
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def read_name_list(path: Path, archive: Archive) -> list[str]:
    """The names in a list of the archives, one a line (what follows a blank is left out).

    Raises:
        MissingFileError: the list is not there.
    """
    if not path.is_file():
        raise archive.missing(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def complete_pairs(
    pairs: Sequence[tuple[Path, Path]],
) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """The pairs of files of which both are there, and the files that are missing."""
    missing = {path for pair in pairs for path in pair if not path.is_file()}
    return [pair for pair in pairs if missing.isdisjoint(pair)], sorted(missing)


def prepare_dataset(
    splits: Sequence[Split],
    arguments: argparse.Namespace,
    registered_names: Sequence[str],
    links: Sequence[FolderLink] = (),
) -> None:
    """Check the numbers of files, make all files, and say what was done.

    Args:
        arguments: of :func:`preparation_parser`.
        registered_names: of the splits, for the hint how to check the result.
        links: folders of images; those whose source is missing are only reported.

    Raises:
        UserError: files are missing or superfluous, or some could not be made.
    """
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, but is {arguments.workers}.")
    _check_counts(splits, arguments.allow_incomplete)
    absent_links = [link for link in links if not link.is_present()]
    new_links = [link for link in absent_links if link.source.is_dir()]
    files = [file for split in splits for file in (*split.images, *split.labels)]
    _check_unique(files)
    if arguments.dry_run:
        _announce(splits, new_links, arguments.overwrite)
    else:
        _prepare([*new_links, *files], arguments)
    for link in absent_links:
        if link not in new_links:
            print(f"Note: the images are not there yet: {link.target.absolute()}")
    if not arguments.dry_run:
        print(f"To check the data: python tools/check_dataset.py {' '.join(registered_names)}")


def _prepare(files, arguments) -> None:
    try:
        report = prepare_files(
            files,
            num_workers=arguments.workers,
            overwrite=arguments.overwrite,
            verify=arguments.verify,
        )
    except KeyboardInterrupt:
        print("Stopped. What is done is complete; start again to go on.", file=sys.stderr)
        raise
    if report.errors:
        raise UserError(
            f"{len(report.errors)} of {len(files)} files could not be prepared ({report.written} "
            f"written, {report.present} there already):\n" + _listed(report.errors)
        )
    if report.written:
        print(f"{report.written} files written, {report.present} there already.")
    else:
        print(f"Nothing to do: all {report.present} files are there already.")


def _check_counts(splits: Sequence[Split], allow_incomplete: bool) -> None:
    problems = []
    for split in splits:
        if split.missing:
            problems.append(
                f"{split.name}: {len(split.missing)} files that the list of the archive names are "
                f"missing:\n{_listed(map(str, split.missing))}"
            )
        elif len(split.labels) != split.official_count:
            problems.append(
                f"{split.name}: {len(split.labels)} labels found, but the official archive has "
                f"{split.official_count}."
            )
    empty = not any(split.labels for split in splits)
    if problems and (empty or not allow_incomplete):
        hint = (
            "Is --source the right folder?"
            if empty
            else "Unpack the archives again; for a partial copy give --allow-incomplete."
        )
        raise UserError("\n".join([*problems, hint]))


def _check_unique(files) -> None:
    counts = Counter(file.target for file in files)
    twice = [str(target) for target, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"Several official files would become one file:\n{_listed(twice)}")


def _announce(splits: Sequence[Split], links: Sequence[FolderLink], overwrite: bool) -> None:
    total = 0
    for split in splits:
        for kind, files in (("images", split.images), ("labels", split.labels)):
            if files:
                total += _announce_files(f"{split.name}, {kind}", files, overwrite)
    for link in links:
        print(f"Links {link.target} to {link.source}")
    print(f"Roughly {total / 1e6:.1f} MB in all. Nothing was written.")


def _announce_files(title: str, files: Sequence, overwrite: bool) -> int:
    """Say what would be done with some files; gives roughly how many bytes it would take."""
    present = sum(os.path.lexists(file.target) for file in files)
    to_write = [file for file in files if overwrite or not os.path.lexists(file.target)]
    size = estimate_bytes(to_write)
    print(f"{title}: {len(files)} files")
    print(f"  reads   {_common_folder(file.source for file in files)}")
    print(f"  writes  {_common_folder(file.target for file in files)}")
    print(
        f"          {len(to_write)} files, roughly {size / 1e6:.1f} MB; "
        f"{present} there already{', to be overwritten' if overwrite and present else ''}"
    )
    return size


def _common_folder(paths) -> str:
    return os.path.commonpath([path.parent for path in paths])


def _listed(lines) -> str:
    lines = list(lines)
    shown = [f"- {line}" for line in lines[:_NUM_SHOWN]]
    if len(lines) > _NUM_SHOWN:
        shown.append(f"- ... and {len(lines) - _NUM_SHOWN} more")
    return "\n".join(shown)
