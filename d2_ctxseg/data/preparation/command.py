"""What the scripts ``datasets/prepare_*.py`` have in common: options, checks, the run, messages."""

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
from ..folder_dataset import DATASETS_VARIABLE, datasets_root
from ..pairing import SKIPPED_FILE
from .files import ExistingFileError, Pair, link

_NUM_SHOWN = 20


@dataclass(frozen=True)
class Archive:
    """Where the official files come from.

    Attributes:
        name: of the dataset.
        pages: the official download pages.
        layout: what the unpacked archives look like, one path a line, below the source folder.
        folders: where they are looked for, below the folder of the datasets; the first one that is
            there counts.
    """

    name: str
    pages: tuple[str, ...]
    layout: str
    folders: tuple[str, ...]

    def find(self, arguments: argparse.Namespace) -> Path:
        """The folder of the unpacked archives; MissingFileError if it is not there."""
        folders = [arguments.root / folder for folder in self.folders]
        if arguments.source is not None:
            folders = [arguments.source.expanduser()]
        return next(filter(Path.is_dir, folders), None) or self.need(folders[0])

    def need(self, path: Path) -> Path:
        """A file or folder of the archives; MissingFileError if it is not there."""
        if path.exists():
            return path
        layout = textwrap.indent(inspect.cleandoc(self.layout), "  ")
        raise MissingFileError(
            f"{path.absolute()} does not exist.\n{self.name} is to be fetched from "
            f"{' and '.join(self.pages)} (please see the terms of use there) and unpacked to this "
            f"layout, or --source is to name the folder it is in:\n{layout}"
        )

    def list(self, folder: Path, pattern: str) -> list[Path]:
        """The files of a folder that match, sorted, hidden ones left out."""
        files = self.need(folder).glob(pattern)
        return sorted(path for path in files if not path.name.startswith("."))


@dataclass(frozen=True)
class Split:
    """The files of one split.

    Attributes:
        name: for messages.
        official_count: how many labels it has officially.
        label_folder: the folder that the loader looks for the labels in.
        pairs: what is to be made; without --allow-incomplete all their sources must be there.
    """

    name: str
    official_count: int
    label_folder: Path
    pairs: Sequence[Pair]


def preparation_parser(description: str) -> argparse.ArgumentParser:
    """The options all scripts have; a script may add its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = datasets_root()
    help_of_root = f"folder of the datasets (default: ${DATASETS_VARIABLE} or ./datasets: {root})"
    parser.add_argument("--root", type=Path, default=root, help=help_of_root)
    parser.add_argument(
        "--source", type=Path, help="folder of the unpacked archives, if not below ROOT"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads (default: one for each core)"
    )
    for option, text in (
        ("--dry-run", "only say what would be done"),
        ("--overwrite", "write also the files that are there already"),
        ("--verify", "compare the files that are there with what would be written"),
        ("--allow-incomplete", "accept other numbers of files than the official ones"),
        ("--skip-broken", "leave out pairs with a broken file, and list them for the loader"),
        ("--copy-images", "copy images rather than link them"),
    ):
        parser.add_argument(option, action="store_true", help=text)
    return parser


def prepare_dataset(
    splits: Sequence[Split],
    arguments: argparse.Namespace,
    registered_names: Sequence[str],
    image_folders: Iterable[tuple[Path, Path]] = (),
) -> None:
    """Check the numbers of files, make all files, and say what was done.

    Args:
        arguments: of :func:`preparation_parser`.
        registered_names: of the splits, for the hint how to check the result.
        image_folders: where images were unpacked, and where they are looked for. What stands in
            the second place is left alone; if nothing does, it becomes a link to the first.

    Raises:
        UserError: files are missing or superfluous, or some could not be made.
    """
    splits, problems = zip(*map(_complete, splits), strict=True)
    problems = [problem for problem in problems if problem]
    if not any(split.pairs for split in splits):
        raise UserError("\n".join([*problems, "Is --source the right folder?"]))
    if problems and not arguments.allow_incomplete:
        hint = "Unpack the archives again; for a partial copy give --allow-incomplete."
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
    counts = f"{sum(outcome is True for outcome in outcomes.values())} pairs written, "
    counts += f"{sum(outcome is False for outcome in outcomes.values())} there already"
    _handle_errors(splits, errors, arguments.skip_broken, counts)
    print(counts if True in outcomes.values() else f"Nothing to do: {counts}")
    print(f"To check the data: d2-ctxseg check-dataset {' '.join(registered_names)}")


def prepare_pairs(
    pairs: Sequence[Pair],
    num_workers: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> dict[Pair, bool | DatasetError]:
    """Make those of the pairs that are not there yet, with a progress bar.

    A broken pair does not stop the others. When the run is stopped, what is done stays done.

    Args:
        num_workers: threads (decoding and encoding release Python's lock); None: one a core.
        overwrite, verify: as :meth:`Pair.prepare` has them.

    Returns:
        Pair -> whether something was written, or what is wrong with it.

    Raises:
        UserError: a file cannot be written.
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
                message = "Stopped. What is done is complete; start again to go on."
                print(message, file=sys.stderr, flush=True)
            raise


def _handle_errors(splits, errors: dict[Pair, DatasetError], skip: bool, counts: str) -> None:
    """Raise UserError of all errors; or list broken pairs where the loader looks for them."""
    messages = _listed(errors.values())
    is_broken = not any(isinstance(error, ExistingFileError) for error in errors.values())
    if errors and not (skip and is_broken):
        hint = "\nGive --skip-broken to leave them out." if is_broken else ""
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
        print(f"{split.name}: {path} tells the loader to leave out {pairs}")
    if errors:
        print(messages)


def _complete(split: Split) -> tuple[Split, str | None]:
    """The split without pairs that lack a source, and what is not as in the official archive."""
    sources = {pair: {pair.label.source, pair.label.image} - {None} for pair in split.pairs}
    missing = {path for path in set().union(*sources.values()) if not path.exists()}
    there = [pair for pair in split.pairs if sources[pair].isdisjoint(missing)]
    problem = None
    if missing:
        files = counted(len(missing), "missing file")
        problem = f"{split.name}: {files}:\n{_listed(sorted(missing))}"
    elif len(there) != split.official_count:
        problem = (
            f"{split.name}: {len(there)} labels found, but the official archive has "
            f"{split.official_count}."
        )
    return replace(split, pairs=there), problem


def _announce(split: Split) -> None:
    for kind in ("image", "label"):
        files = [file for pair in split.pairs if (file := getattr(pair, kind))]
        if files:
            present = sum(os.path.lexists(file.target) for file in files)
            print(f"{split.name}: {len(files)} {kind}s, {present} there already")
            print(f"  reads   {os.path.commonpath([file.source.parent for file in files])}")
            print(f"  writes  {os.path.commonpath([file.target.parent for file in files])}")


def _link_folder(source: Path, target: Path, dry_run: bool) -> None:
    if target.exists():
        return
    if not source.is_dir():
        print(f"Note: the images are not there yet: {target.absolute()}")
    elif dry_run:
        print(f"Links {target} to {source}")
    elif not link(source, target):
        raise UserError(f"Cannot link {target} to {source} here: move or copy the folder.")


def _listed(lines: Iterable) -> str:
    lines = [f"- {line}" for line in lines]
    if len(lines) > _NUM_SHOWN:
        lines[_NUM_SHOWN:] = [f"- ... and {len(lines) - _NUM_SHOWN} more"]
    return "\n".join(lines)
