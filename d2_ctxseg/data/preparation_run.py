"""Makes many files in parallel processes: resumable, and quick to end with Ctrl-C."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

import cv2
from tqdm import tqdm

from ..utils.errors import UserError
from .errors import DatasetError

_FILES_PER_TASK = 8
_NUM_SAMPLES = 4
# No single file takes as long: what is older was left by a process that was killed.
_LEFTOVER_SECONDS = 600
_LEFTOVER_PATTERN = re.compile(r"\..+\.(\d+)\.part")


@dataclass
class PreparationReport:
    """What a run did: numbers of files, and a sentence for each that could not be made."""

    written: int = 0
    present: int = 0
    errors: list[str] = field(default_factory=list)


def prepare_files(
    files: Sequence,
    *,
    num_workers: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> PreparationReport:
    """Make those of the files that are not there yet, with a progress bar.

    A bad file does not stop the others. When the run is stopped, what is done stays done.

    Args:
        files: of the kinds of preparation.py.
        num_workers: processes; None: one for each core. With 1 no process is started.
        overwrite: write also what is there already.
        verify: compare what is there already with what would be written.

    Raises:
        UserError: a file cannot be written (disk full, no permission), or a worker was killed.
    """
    num_workers = min(num_workers or os.cpu_count() or 1, max(1, len(files)))
    remove_leftovers(_target_folders(files))
    prepare = partial(_prepare, overwrite=overwrite, verify=verify)
    report = PreparationReport()
    with closing(_run(prepare, files, num_workers)) as results:
        for written, error in tqdm(results, "preparing", len(files), unit="file"):
            if error:
                report.errors.append(error)
            else:
                report.written += written
                report.present += not written
    return report


def estimate_bytes(files: Sequence) -> int:
    """Roughly how much the files will take, from a few of them; nothing is written."""
    samples = files[:: max(1, len(files) // _NUM_SAMPLES)][:_NUM_SAMPLES]
    sizes = []
    for file in samples:
        try:
            sizes.append(file.estimated_bytes())
        except (DatasetError, OSError):  # a bad file is reported when it is its turn
            continue
    return round(sum(sizes) / len(sizes) * len(files)) if sizes else 0


def remove_leftovers(folders: Iterable[Path], process_ids: Container[int] = ()) -> None:
    """Delete what ended processes left half-written, files named ``.NAME.PID.part``.

    Those of the given processes are deleted, and all that are old: other runs may be going on.
    """
    for folder in folders:
        for part in folder.glob(".*.part") if folder.is_dir() else ():
            name = _LEFTOVER_PATTERN.fullmatch(part.name)
            try:
                is_old = time.time() - part.lstat().st_mtime > _LEFTOVER_SECONDS
                if name and (is_old or int(name[1]) in process_ids):
                    part.unlink()
            except FileNotFoundError:
                continue


def _target_folders(files: Sequence) -> set[Path]:
    return {file.target.parent for file in files}


def _prepare(file, overwrite: bool, verify: bool) -> tuple[bool, str | None]:
    """Whether the file was written, and what is wrong with it."""
    try:
        if not overwrite and file.is_present(verify):
            return False, None
        file.write()
        return True, None
    except DatasetError as error:
        return False, str(error)
    except OSError as error:
        raise UserError(
            f"Cannot write {file.target}: {error.strerror or error}. What was written before is "
            "complete; start again when there is space and permission."
        ) from error


def _run(prepare, files: Sequence, num_workers: int) -> Iterator:
    """The results of ``prepare`` in the order of the files."""
    if num_workers == 1:
        yield from map(prepare, files)
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(num_workers, _context(), initializer=_start_worker)
    try:
        yield from pool.map(prepare, files, chunksize=_FILES_PER_TASK)
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process was killed, probably because memory ran out. What was written is "
            "complete; start again with fewer workers (--workers)."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _end_workers([p for p in multiprocessing.active_children() if p not in others], files)


def _context():
    """How workers are started."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    # Forked from a process that has imported everything and started no thread: OpenCV's threads
    # do not survive a fork, and importing torch in each worker would take seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _end_workers(workers: list, files: Sequence) -> None:
    """After an error or Ctrl-C: end the workers where they are, and delete what they had begun."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(timeout=1)
    if workers:
        remove_leftovers(_target_folders(files), {worker.pid for worker in workers})


def _start_worker() -> None:
    # Ctrl-C reaches all processes of the terminal; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
