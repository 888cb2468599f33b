"""The common part of the preparation of all datasets: checks, run, messages."""

import argparse
import inspect
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ...utils.errors import MissingFileError, UserError, counted
from ...utils.files import atomic_write
from ..errors import DatasetError
from ..pairing import SKIPPED_FILE
from .files import ExistingFileError, Pair, link

_NUM_SHOWN = 20


@dataclass(frozen=True)
class Archive:
    """The official archives of a dataset.

    Attributes:
        name: name of the dataset.
        pages: the official download pages.
        layout: the files of the unpacked archives, one path per line, below the source folder.
        folders: folders below the datasets folder that may hold the archives, in the order of
            preference.
    """

    name: str
    pages: tuple[str, ...]
    layout: str
    folders: tuple[str, ...]

    def find(self, arguments: argparse.Namespace) -> Path:
        """The folder of the unpacked archives; MissingFileError if it does not exist."""
        folders = [arguments.root / folder for folder in self.folders]
        if arguments.source is not None:
            folders = [arguments.source.expanduser()]
        return next(filter(Path.is_dir, folders), None) or self.need(folders[0])

    def need(self, path: Path) -> Path:
        """Return a file or folder of the archives; MissingFileError if it does not exist."""
        if path.exists():
            return path
        layout = textwrap.indent(inspect.cleandoc(self.layout), "  ")
        raise MissingFileError(
            f"{path.absolute()} does not exist.\nDownload {self.name} from "
            f"{' and '.join(self.pages)} (please see the terms of use there) and unpack it to this "
            f"layout, or set --source to the folder that contains it:\n{layout}"
        )

    def list(self, folder: Path, pattern: str) -> list[Path]:
        """The files in a folder that match a pattern, sorted, without hidden files."""
        files = self.need(folder).glob(pattern)
        return sorted(path for path in files if not path.name.startswith("."))


@dataclass(frozen=True)
class Split:
    """The files of one split.

    Attributes:
        name: name of the split, for messages.
        official_count: number of labels in the official archive.
        label_folder: the label folder of the registered dataset.
        pairs: the pairs to prepare. Without --allow-incomplete all their sources must exist.
    """

    name: str
    official_count: int
    label_folder: Path
    pairs: Sequence[Pair]


def prepare_dataset(
    splits: Sequence[Split],
    arguments: argparse.Namespace,
    registered_names: Sequence[str],
    image_folders: Iterable[tuple[Path, Path]] = (),
) -> None:
    """Check the numbers of files, write all files, and print a summary.

    Args:
        splits: the splits to prepare.
        arguments: ``root``, ``source``, ``workers``, ``dry_run``, ``overwrite``, ``verify``,
            ``allow_incomplete`` and ``skip_broken``, the options of ``d2-ctxseg prepare``.
        registered_names: registered names of the splits, for the hint how to check the result.
        image_folders: pairs of a folder of unpacked images and the image folder of the registered
            dataset. The latter becomes a link to the former unless it exists.

    Raises:
        UserError: the number of files differs from the official one, or a file cannot be written.
    """
    splits, problems = zip(*map(_complete, splits), strict=True)
    problems = [problem for problem in problems if problem]
    if not any(split.pairs for split in splits):
        raise UserError("\n".join([*problems, "Check that --source is the correct folder."]))
    if problems and not arguments.allow_incomplete:
        hint = "Unpack the archives again; for a partial copy set --allow-incomplete."
        raise UserError("\n".join([*problems, hint]))
    for source, target in image_folders:
        _link_folder(source, target, arguments.dry_run)
    if arguments.dry_run:
        for split in splits:
            _announce(split)
        print("Nothing was written.")
        return
    pairs = [pair for split in splits for pair in split.pairs]
    outcomes = prepare_pairs(pairs, arguments.workers, arguments.overwrite, arguments.verify)
    errors = {pair: outcome for pair, outcome in outcomes.items() if outcome not in (True, False)}
    written = sum(outcome is True for outcome in outcomes.values())
    existing = sum(outcome is False for outcome in outcomes.values())
    counts = f"{counted(written, 'pair')} written, {existing} already existed"
    _handle_errors(splits, errors, arguments.skip_broken, counts)
    print(counts if written else f"Nothing to do: {counts}")
    print(f"To check the data: d2-ctxseg check-dataset {' '.join(registered_names)}")


def prepare_pairs(
    pairs: Sequence[Pair],
    num_workers: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> dict[Pair, bool | DatasetError]:
    """Write the files of the pairs that do not exist yet, with a progress bar.

    A broken pair does not stop the others. Finished pairs remain complete if the run is stopped.

    Args:
        pairs: the pairs to prepare.
        num_workers: number of threads (decoding and encoding release Python's lock); None: one per
            core.
        overwrite, verify: see :meth:`Pair.prepare`.

    Returns:
        Pair -> whether files were written, or the error of a broken pair.

    Raises:
        UserError: a file cannot be written, or ``num_workers`` is less than 1.
    """

    def prepare(pair: Pair) -> bool | DatasetError:
        try:
            return pair.prepare(overwrite, verify)
        except DatasetError as error:
            return error

    if num_workers is not None and num_workers < 1:
        raise UserError(f"--workers must be at least 1, but is {num_workers}.")
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        try:
            outcomes = tqdm(pool.map(prepare, pairs), "preparing", len(pairs), unit="pair")
            return dict(zip(pairs, outcomes, strict=True))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                message = "Stopped. Finished files are complete; run the command again to continue."
                print(message, file=sys.stderr, flush=True)
            raise


def _handle_errors(splits, errors: dict[Pair, DatasetError], skip: bool, counts: str) -> None:
    """Raise UserError for the errors, or list broken pairs in SKIPPED_FILE for the loader."""
    messages = _listed(errors.values())
    is_broken = not any(isinstance(error, ExistingFileError) for error in errors.values())
    if errors and not (skip and is_broken):
        hint = "\nSet --skip-broken to skip them." if is_broken else ""
        pairs = counted(len(errors), "pair")
        raise UserError(f"{pairs} could not be prepared ({counts}):\n{messages}{hint}")
    for split in splits:
        path = split.label_folder / SKIPPED_FILE
        broken = [pair for pair in split.pairs if pair in errors]
        if not broken:
            path.unlink(missing_ok=True)
            continue
        with atomic_write(path) as file:
            for pair in broken:
                label = pair.label.target.relative_to(split.label_folder).as_posix()
                file.write(f"{label}\t{' '.join(str(errors[pair]).split())}\n")
        pairs = counted(len(broken), "broken pair")
        print(f"{split.name}: {path} lists {pairs} for the loader to skip")
    if errors:
        print(messages)


def _complete(split: Split) -> tuple[Split, str | None]:
    """The split without pairs whose source is missing, and its difference to the archive."""
    sources = {pair: {pair.label.source, pair.label.image} - {None} for pair in split.pairs}
    missing = {path for path in set().union(*sources.values()) if not path.exists()}
    there = [pair for pair in split.pairs if sources[pair].isdisjoint(missing)]
    problem = None
    if missing:
        files = counted(len(missing), "missing file")
        problem = f"{split.name}: {files}:\n{_listed(sorted(missing))}"
    elif len(there) != split.official_count:
        problem = (
            f"{split.name}: {counted(len(there), 'label')} found, but the official archive has "
            f"{split.official_count}."
        )
    return replace(split, pairs=there), problem


def _announce(split: Split) -> None:
    for kind in ("image", "label"):
        files = [file for pair in split.pairs if (file := getattr(pair, kind))]
        if files:
            present = sum(os.path.lexists(file.target) for file in files)
            print(f"{split.name}: {counted(len(files), kind)}, {present} already exist")
            print(f"  reads   {os.path.commonpath([file.source.parent for file in files])}")
            print(f"  writes  {os.path.commonpath([file.target.parent for file in files])}")


def _link_folder(source: Path, target: Path, dry_run: bool) -> None:
    if target.exists():
        return
    if not source.is_dir():
        print(f"Note: the images are missing: {target.absolute()}")
    elif dry_run:
        print(f"Links {target} to {source}")
    elif not link(source, target):
        raise UserError(f"Cannot link {target} to {source}: move or copy the folder.")


def _listed(lines: Iterable) -> str:
    lines = [f"- {line}" for line in lines]
    if len(lines) > _NUM_SHOWN:
        lines[_NUM_SHOWN:] = [f"- ... and {len(lines) - _NUM_SHOWN} more"]
    return "\n".join(lines)
