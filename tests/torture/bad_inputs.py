#!/usr/bin/env python3
"""Runs the entry points on the wrong inputs of bad_inputs.yaml, and counts how they end.

    PYTHONPATH=. python tests/torture/bad_inputs.py
    PYTHONPATH=. python tests/torture/bad_inputs.py --fast --group weights --verbose

Every case is a program run of its own, a fork of this process, which has imported all libraries
once. A case ends

  clear      with the exit code and the message that the list expects, and no traceback
  vague      with the exit code and one message, which lacks something that the list expects
  silent     otherwise without a traceback: with another exit code, no message, or several
  traceback  with a traceback anywhere in what it printed
  hangs      not within its time
"""

import argparse
import io
import logging
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

LIST = Path(__file__).with_name("bad_inputs.yaml")
ROOT = Path(__file__).resolve().parents[2]
OUTCOMES = ("clear", "vague", "silent", "traceback", "hangs")
SECONDS = 60


@dataclass(frozen=True)
class Case:
    """An invalid input and the expected message.

    Attributes:
        group, name: of the list.
        program: path of the script below the repository.
        words: its command line.
        says: what the message contains.
        exit: the exit code; 0 where the program goes on and says it in its log.
        files: name -> text of files that are made in the case's folder.
        make: name -> kind of files that are made there, see ``bad_input_files``.
        report: the message is what the program prints anyway, not an error.
        early: setup_config refuses it.
        slow: left out of the fast part.
    """

    group: str
    name: str
    program: str
    words: tuple[str, ...]
    says: tuple[str, ...]
    exit: int = 1
    files: dict[str, str] = field(default_factory=dict)
    make: dict[str, str] = field(default_factory=dict)
    report: bool = False
    early: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Ending:
    """How a case ended.

    Attributes:
        code: the exit code; None where it was stopped.
        stdout, stderr: what was printed.
        seconds: of the processor.
    """

    code: int | None
    stdout: str
    stderr: str
    seconds: float


def read_cases(path: Path = LIST) -> list[Case]:
    """All cases. What a group says besides its cases holds for each of them.

    A case is a mapping, or a list of its ``run`` and what it ``says``.
    """
    cases = []
    for group in yaml.safe_load(path.read_text(encoding="utf-8")):
        common = {
            key: group[key]
            for key in ("program", "exit", "report", "early", "slow")
            if key in group
        }
        for entry in group["cases"]:
            if isinstance(entry, list):
                entry = {"run": entry[0], "says": entry[1:]}
            entry = {**common, **entry}
            own, says = entry.pop("run", ""), entry.pop("says")
            words = shlex.split(group.get("run", "").replace("{case}", own) or own)
            cases.append(
                Case(
                    group=group["group"],
                    name=str(entry.pop("name", own)),
                    words=tuple(words),
                    says=(says,) if isinstance(says, str) else tuple(says),
                    **entry,
                )
            )
    return cases


def prepare_case(case: Case, folder: Path, shared: Path, root: Path = ROOT) -> Case:
    """Make the files of a case, and put paths for the names in braces.

    Args:
        case: of the list.
        folder: of its own.
        shared: what ``bad_input_files.make_shared_files`` made for all.
        root: the checkout whose programs are tried.
    """
    from bad_input_files import make_file

    folder.mkdir(parents=True, exist_ok=True)
    place = {"{folder}": str(folder), "{shared}": str(shared), "{root}": str(root)}
    for name, text in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_fill(text, place), encoding="utf-8")
    for name, kind in case.make.items():
        make_file(folder / name, _fill(kind, place), shared)
    return replace(
        case,
        program=str(root / case.program),
        words=tuple(_fill(word, place) for word in case.words),
        says=tuple(_fill(words, place) for words in case.says),
    )


def run_case(case: Case, folder: Path, shared: Path, root: Path = ROOT) -> Ending:
    """Run a prepared case; arguments as of :func:`prepare_case`."""
    environment = {"DETECTRON2_DATASETS": str(shared / "datasets"), "PYTHONPATH": str(root)}
    environment |= {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    outputs = [folder / ".stdout", folder / ".stderr"]
    process = os.fork()
    if process == 0:
        _be_the_program([case.program, *case.words], environment, outputs, folder)
    code, seconds = _wait(process)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in outputs]
    return Ending(code, *texts, seconds)


def judge(case: Case, ending: Ending) -> tuple[str, str]:
    """One of OUTCOMES, and why it is not "clear"."""
    printed = ending.stdout + ending.stderr
    if ending.code is None:
        return "hangs", f"stopped after {SECONDS} s"
    if "Traceback (most recent call last)" in printed:
        return "traceback", printed.strip().splitlines()[-1]
    other_code = f"exit code {ending.code} instead of {case.exit}"
    if bool(ending.code) != bool(case.exit):
        return "silent", other_code
    is_error = case.exit != 0 and not case.report
    if is_error and sum("error: " in line[:60] for line in ending.stderr.splitlines()) != 1:
        return "silent", "not one message"
    where = ending.stderr if is_error else printed
    text = " ".join(where.split())
    missing = [words for words in case.says if " ".join(words.split()) not in text]
    if missing:
        return "vague" if is_error else "silent", f"does not say {missing}"
    return ("clear", "") if ending.code == case.exit else ("vague", other_code)


def _fill(text: str, place: dict[str, str]) -> str:
    for name, value in place.items():
        text = text.replace(name, value)
    return text


def _be_the_program(words, environment, outputs, folder) -> None:
    """What the forked process does; it does not return."""
    import runpy

    code = 1
    try:
        os.setsid()
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w")) for n in (1, 2))
        os.environ.update(environment)
        _forget_logging()
        os.chdir(folder)
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        try:
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _forget_logging() -> None:
    """Take out what this process, pytest for one, has set up; programs set up their own."""
    for logger in (logging.getLogger(), *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


def _wait(process: int) -> tuple[int | None, float]:
    """Exit code and seconds of the processor; one that hangs is stopped with its children."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    usage = os.wait4(process, 0)[2]
    return None, usage.ru_utime + usage.ru_stime


def _table(counts: dict[str, Counter]) -> str:
    from tabulate import tabulate

    total = sum(counts.values(), Counter())
    rows = [
        [name, sum(count.values()), *(count[outcome] for outcome in OUTCOMES)]
        for name, count in [*counts.items(), ("all", total)]
    ]
    return tabulate(rows, ["group", "cases", *OUTCOMES], "pipe")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to try (this one)")
    parser.add_argument("--group", action="append", help="only this one; may be given often")
    parser.add_argument("--match", default="", help="only cases whose name has this in it")
    parser.add_argument("--fast", action="store_true", help="leave the slow ones out")
    parser.add_argument("--verbose", action="store_true", help="show what was printed")
    arguments = parser.parse_args()
    from bad_input_files import import_libraries, make_shared_files

    cases = [
        case
        for case in read_cases()
        if not (arguments.fast and case.slow)
        and (not arguments.group or case.group in arguments.group)
        and arguments.match in case.name
    ]
    import_libraries(arguments.root)
    counts: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as temporary:
        shared = make_shared_files(Path(temporary) / "shared")
        start = time.perf_counter()
        for number, case in enumerate(cases):
            folder = Path(temporary) / f"case{number}"
            case = prepare_case(case, folder, shared, arguments.root.resolve())
            ending = run_case(case, folder, shared, arguments.root.resolve())
            outcome, why = judge(case, ending)
            counts.setdefault(case.group, Counter())[outcome] += 1
            if outcome != "clear" or arguments.verbose:
                print(f"{outcome:9} {ending.seconds:5.1f} s  {case.group}: {case.name}  [{why}]")
            if arguments.verbose:
                print(_indent(ending.stdout[-1500:]) + _indent(ending.stderr[-3000:]), flush=True)
    print(f"\n{_table(counts)}\n{time.perf_counter() - start:.0f} s")
    return int(any(count.total() != count["clear"] for count in counts.values()))


def _indent(text: str) -> str:
    return "".join(f"    | {line}\n" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
