"""The command d2-ctxseg: its list of commands, its errors, and its equivalence to the scripts."""

import re
import subprocess
import sys

import pytest
from train_net_runs import ROOT

import d2_ctxseg
from d2_ctxseg.commands.command_line import COMMANDS, read_command_line
from d2_ctxseg.commands.prepare import PREPARATIONS

SCRIPTS = [
    path
    for path in [
        ROOT / "train_net.py",
        *(ROOT / "tools").glob("*.py"),
        *(ROOT / "demo").glob("*.py"),
        *(ROOT / "datasets").glob("*.py"),
    ]
    if "d2_ctxseg_cli" in path.read_text()
]
# Ends with the names of what was imported of the heavy libraries.
WITHOUT_TORCH = """
import sys
sys.argv = ["d2-ctxseg", *{words}]
import d2_ctxseg_cli
try:
    d2_ctxseg_cli.main()
finally:
    print(sorted({{"torch", "numpy", "detectron2", "cv2"}} & set(sys.modules)), file=sys.stderr)
"""


def command_line(monkeypatch, *words, command=None):
    monkeypatch.setattr(sys, "argv", ["d2-ctxseg", *words])
    return read_command_line(command)


def ends(monkeypatch, capsys, *words, command=None):
    """The exit code of a command line that ends the program, and what it prints."""
    with pytest.raises(SystemExit) as end:
        command_line(monkeypatch, *words, command=command)
    return end.value.code, "".join(capsys.readouterr())


def test_help_lists_every_command(monkeypatch, capsys):
    code, text = ends(monkeypatch, capsys, "--help")
    assert code == 0
    assert re.findall(r"^  (\S+)", text, re.MULTILINE) == list(COMMANDS)
    assert ends(monkeypatch, capsys) == (2, text)


def test_the_version_is_the_package_s(monkeypatch, capsys):
    assert ends(monkeypatch, capsys, "--version") == (0, f"d2-ctxseg {d2_ctxseg.__version__}\n")


def test_an_unknown_command_suggests_the_nearest(monkeypatch, capsys):
    code, text = ends(monkeypatch, capsys, "reprot", "run")
    assert code == 2 and "unknown command 'reprot'. Did you mean 'report'" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(monkeypatch, capsys, name):
    code, text = ends(monkeypatch, capsys, name, "--help")
    assert code == 0
    assert text.startswith(f"usage: d2-ctxseg {name} ")
    assert f"\n    d2-ctxseg {name} " in text


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"app"}))  # of that test_app.py imports
def test_every_command_has_a_program(name):
    assert callable(COMMANDS[name].load())


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["demo", "--inptu", "a.png"]])
def test_help_and_errors_do_not_import_pytorch(words):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(words=words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.stderr.splitlines()[-1] == "[]", process.stderr
    assert process.returncode == (0 if "--help" in words else 2)


def test_each_script_is_one_of_the_commands(monkeypatch, capsys):
    calls = {path: re.search(r'main\((".*")\)', path.read_text())[1] for path in SCRIPTS}
    named = {path: re.findall(r'"(.+?)"', call) for path, call in calls.items()}
    # `eval` is train_net.py --eval-only, and each dataset has a script of `prepare`.
    commands = {words[0] for words in named.values()} | {"eval"}
    assert sorted(commands) == sorted(COMMANDS)
    assert [w[1] for w in sorted(named.values()) if w[0] == "prepare"] == list(PREPARATIONS)
    assert sum(len(words) == 1 for words in named.values()) == len(COMMANDS) - 2
    for path, words in named.items():
        assert f"d2-ctxseg {' '.join(words)}``" in path.read_text()


def test_a_script_reads_its_own_arguments(monkeypatch):
    command, arguments = command_line(monkeypatch, "run", command="report")
    assert command is COMMANDS["report"] and arguments.runs == ["run"]
