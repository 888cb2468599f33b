"""The whole page, and the file that holds it."""

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import atomic_write
from .classes import register_datasets_of
from .dataset_section import dataset_section, main_evaluation
from .markup import Markup, join, note, tag
from .run import Run, read_run
from .sections import configuration_section, dataset_names, results_section, training_section

# The file stays below about 10 MB: pictures take this much at most ...
_PICTURES_BYTES = 8_000_000
# ... and this much each at most; with less than the minimum they are not worth looking at.
_MOST_BYTES, _LEAST_BYTES = 240_000, 40_000
# Scripts and styles of the page itself only, pictures in the page only.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(
    run_dirs: Sequence[str | os.PathLike], output: str | os.PathLike | None = None
) -> Path:
    """Write one HTML file about one run, or about several of which the first is the reference.

    The file needs no other file and no network. What a run lacks is left out, and the page says
    so.

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
    datasets = dataset_names(runs)
    picture_bytes, max_examples = _budget(runs)
    sections = {"results": ("Results", results_section(runs))}
    sections["training"] = ("Training", training_section(runs))
    for number, dataset in enumerate(datasets):
        section = dataset_section(dataset, runs, number, picture_bytes, max_examples)
        sections[f"dataset-{number}"] = (dataset, section)
    sections["configuration"] = ("Configuration", configuration_section(runs))
    sections = {key: part for key, part in sections.items() if part[1] is not None}

    title = " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"
    links = [tag("a", name, href=f"#{key}") for key, (name, _) in sections.items()]
    body = tag(
        "body",
        tag("h1", title),
        _introduction(runs),
        tag("nav", *links),
        *(note(text) for text in notes),
        *(section for _, section in sections.values()),
        tag("script", Markup(data_file("report.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head(title), body, lang='en')}\n"


def head(title: str) -> Markup:
    """The page's <head>, with the style sheet."""
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),  # or browsers ask the server for one
        tag("title", f"{title} – segmentation report"),
        tag("style", Markup(data_file("report.css"))),
    )


def _introduction(runs: Sequence[Run]) -> Markup:
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    folders = join([tag("code", str(run.folder)) for run in runs], ", ")
    reference = f" Changes (Δ) are against the first one, {runs[0].name}." if len(runs) > 1 else ""
    return tag("p", f"{date}, from ", folders, f".{reference}", class_="pale")


def _budget(runs: Sequence[Run]) -> tuple[int, int]:
    """Bytes for the pictures of an example, and the most examples of each kind."""
    evaluations = [main_evaluation(tasks) for run in runs for tasks in run.evaluations.values()]
    kinds = [
        count
        for evaluation in evaluations
        for count in Counter(example.kind for example in evaluation.examples).values()
    ]
    if not kinds:
        return _MOST_BYTES, 0
    most = max(_PICTURES_BYTES // _LEAST_BYTES // len(kinds), 1)
    total = sum(min(count, most) for count in kinds)
    return min(_PICTURES_BYTES // total, _MOST_BYTES), most


def data_file(name: str) -> str:
    """A file that lies beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
