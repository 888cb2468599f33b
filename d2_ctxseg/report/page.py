"""The complete page and its file."""

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import atomic_write
from .classes import register_datasets_of
from .dataset_section import dataset_section, main_evaluation
from .html import render_report
from .run import Run, read_run
from .sections import anomalies, configuration, curves, dataset_names, results

# The file stays below about 10 MB: all images take at most this many bytes ...
_IMAGES_BYTES = 8_000_000
# ... and the images of an example at most this many. Below the minimum they show too little.
_MOST_BYTES, _LEAST_BYTES = 240_000, 40_000


def write_report(
    run_dirs: Sequence[str | os.PathLike], output: str | os.PathLike | None = None
) -> Path:
    """Write one HTML file about one run, or about several of which the first is the reference.

    The file needs no other file and no network. The page leaves out
    what a run lacks, and says so.

    Args:
        run_dirs: folders that train_net.py wrote (OUTPUT_DIR).
        output: the file, or a folder in which it is called report.html. None: the first run's.

    Returns:
        The path of the file.

    Raises:
        MissingFileError: a folder is not there.
        UserError: no folder was given, one twice, or one that is not a run's.
    """
    folders = [Path(folder) for folder in run_dirs]
    if not folders:
        raise UserError("No run was given: name the OUTPUT_DIR of at least one.")
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise UserError(f"The run '{folder}' was given {count} times: name each run once.")
    runs = [read_run(folder) for folder in folders]
    name_runs(runs)
    path = folders[0] if output is None else Path(output)
    path = path / "report.html" if path.is_dir() else path
    content = render(runs)
    with atomic_write(path) as file:
        file.write(content)
    return path


def name_runs(runs: Sequence[Run]) -> None:
    """Name each run by as many of its last folders as tell it from the others."""
    parts = [run.folder.resolve().parts for run in runs]
    for run, own in zip(runs, parts):
        depth = 1
        while depth < len(own) and sum(own[-depth:] == other[-depth:] for other in parts) > 1:
            depth += 1
        run.name = "/".join(own[-depth:])


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    notes = register_datasets_of(runs)
    image_bytes, max_examples = _budget(runs)
    datasets = [
        dataset_section(dataset, runs, image_bytes, max_examples) for dataset in dataset_names(runs)
    ]
    title = " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"
    return render_report(
        title=title,
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        several=len(runs) > 1,
        notes=notes,
        curves=curves(runs),
        datasets=datasets,
        **results(runs),
        **anomalies(runs),
        **configuration(runs),
    )


def _budget(runs: Sequence[Run]) -> tuple[int, int]:
    """Bytes for the images of an example, and the most examples of each kind."""
    evaluations = [main_evaluation(tasks) for run in runs for tasks in run.evaluations.values()]
    kinds = [
        count
        for evaluation in evaluations
        for count in Counter(example.kind for example in evaluation.examples).values()
    ]
    if not kinds:
        return _MOST_BYTES, 0
    most = max(_IMAGES_BYTES // _LEAST_BYTES // len(kinds), 1)
    total = sum(min(count, most) for count in kinds)
    return min(_IMAGES_BYTES // total, _MOST_BYTES), most
