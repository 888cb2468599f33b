"""The pages are correct: commands and examples work, files and links exist.

A command of a page is parsed by the program's own parser, or ``documented_commands.yaml`` says
which test runs it or why none does. Python examples run.
"""

import argparse
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from train_net_runs import ROOT

from d2_ctxseg import model_zoo
from d2_ctxseg.classifiers import ContextAwareClassifier
from d2_ctxseg.commands.command_line import COMMANDS
from d2_ctxseg.engine.config_files import find_config_file
from d2_ctxseg.engine.validate_config import all_keys, default_config
from detectron2.config import CfgNode
from detectron2.modeling import build_model

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "MODEL_ZOO.md",
    ROOT / "datasets" / "README.md",
    ROOT / "demo" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LISTED = yaml.safe_load((ROOT / "tests" / "documented_commands.yaml").read_text())
NOT_RUN = [begin for begins in LISTED["not_run"].values() for begin in begins]
STREET = ROOT / "demo" / "street.jpg"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def examples(page, language):
    """The texts of the fenced blocks of a language in a page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == language]


def commands_of(page):
    """The simple commands in a page's shell examples, as lists of words."""
    for text in examples(page, "bash"):
        text = re.sub(r"<<'END'\n.*?\nEND$", "", text, flags=re.DOTALL | re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            yield from simple_commands(line)


def commands_in_sentences(page):
    """The complete commands in a page's inline code, as lists of words."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for command in re.findall(r"`((?:d2-ctxseg [a-z-]+ |python )[^`]+)`", text):
        yield shlex.split(command)


def simple_commands(line):
    """The commands that ``&&``, ``;`` and ``|`` join, without assignments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split = True
    words = []
    for word in [*lexer, ";"]:
        if word not in (";", "|", "&", "&&"):
            words.append(word)
            continue
        while words and (words[0] == "do" or re.match(r"\w+=", words[0])):
            words = words[1:]
        end = next((i for i, w in enumerate(words) if w in (">", ">>", "<", "<<")), None)
        if words[:end] not in ([], ["done"]):
            yield words[:end]
        words = []


def parse(words, monkeypatch):
    """The arguments of a command of this repository as its own parser reads them, or None.

    Python code on the command line is run.
    """
    if words[0] == "d2-ctxseg":
        return COMMANDS[words[1]].parser().parse_args(words[2:])
    if words[:2] == ["python", "-c"]:
        return exec(words[2], {}) or words
    if words[0] != "python" or not words[1].endswith(".py"):
        return None
    script = ROOT / words[1]
    door = re.search(r'^    main\("([\w-]+)"\)', script.read_text(), re.MULTILINE)
    if door:
        return COMMANDS[door[1]].parser().parse_args(words[2:])
    return arguments_of_script(script, words[2:], monkeypatch)


def arguments_of_script(script, words, monkeypatch):
    """What the parser inside a script makes of the words; the script stops there."""

    class Parsed(Exception):
        pass

    def stop(parser, *args, **kwargs):
        raise Parsed(parse_args(parser, words))

    parse_args = argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.syspath_prepend(script.parent)
        with pytest.raises(Parsed) as parsed:
            runpy.run_path(str(script), run_name="__main__")
    return parsed.value.args[0]


def is_listed(words, begins):
    return any(" ".join([*words, ""]).startswith(begin) for begin in begins)


@each_page
def test_commands_have_arguments_that_their_programs_take(page, capsys, monkeypatch):
    keys = set(all_keys(default_config()))
    in_sentences = [] if page.name == "MODEL_ZOO.md" else commands_in_sentences(page)
    for words in (*commands_of(page), *in_sentences):
        if is_listed(words, [*NOT_RUN, *LISTED["run_by_tests"]]):
            continue
        try:
            arguments = parse(words, monkeypatch)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")
        assert arguments, f"{shlex.join(words)}: neither parsed nor in documented_commands.yaml"
        config = getattr(arguments, "config_file", None) or ""
        assert (
            not config.startswith(("configs/", "camvid/", "quickstart"))
            or Path(find_config_file(config)).is_file()
        )
        overrides = getattr(arguments, "opts", [])
        assert set(overrides[::2]) <= keys
        default_config().merge_from_list(overrides)  # values have the types of their keys


def test_the_list_of_commands_names_tests_that_are_there_and_nothing_that_no_page_has():
    commands = [words for page in PAGES for words in commands_of(page)]
    for begin in (*NOT_RUN, *LISTED["run_by_tests"]):
        assert any(is_listed(words, [begin]) for words in commands), begin
    for test in LISTED["run_by_tests"].values():
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / file).read_text(), test


def test_a_command_stands_on_one_page():
    """Apart from README.md, which shows one line of what the pages explain."""
    pages = {}
    for page in PAGES[1:]:
        for words in commands_of(page):
            listed = [*NOT_RUN, *LISTED["run_by_tests"], *LISTED["on_several_pages"]]
            if not is_listed(words, listed):
                pages.setdefault(shlex.join(words), set()).add(page.name)
    assert {command: where for command, where in pages.items() if len(where) > 1} == {}


@each_page
def test_commands_stand_in_blocks_that_are_marked_as_commands(page):
    unmarked = "\n".join([*examples(page, ""), *examples(page, "text")])
    assert re.findall(r"^(?:d2-ctxseg|python|pip|git|export) .*", unmarked, re.MULTILINE) == []


@each_page
def test_files_that_a_page_names_exist(page):
    names = re.findall(
        r"(?<![\w/.-])((?:benchmarks|configs|tools|demo|datasets|docs|tests)/[\w/.-]+\.(?:py|yaml|md))",
        page.read_text(),
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


def anchors_of(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_index_of_tools_has_every_command():
    page = (ROOT / "docs" / "TOOLS.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `(\S+?)[ `]", page, re.MULTILINE))
    assert set(rows) == set(COMMANDS)
    for name, script in rows.items():
        door = "train" if name == "eval" else name
        assert f'main("{door}"' in (ROOT / script).read_text()


@pytest.mark.slow
def test_modules_of_one_s_own_as_the_page_says(tmp_path):
    page = (ROOT / "docs" / "EXTENDING.md").read_text()
    modules = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_modules.py").write_text("\n\n".join(modules))
    config = re.search(r"```yaml\n(_BASE_.*?)```", page, re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(config.replace("configs/", f"{ROOT}/configs/"))
    command = [sys.executable, "-m", "d2_ctxseg_cli", "analyze", "--config-file", "mine.yaml"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "classifier" in process.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page, "python")], ids=lambda page: page.stem
)
def test_python_examples_run(page, tmp_path, monkeypatch, tiny_config):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    namespace = {"__name__": "example", **PREPARE.get(page.name, dict)()}
    not_run = [line for lines in LISTED["python_not_run"].values() for line in lines]
    for example in examples(page, "python"):
        if not any(line in example for line in not_run):
            exec(compile(example, str(page), "exec"), namespace)
    if page.name in CHECK:
        CHECK[page.name](namespace, tiny_config)


def prepare_evaluation():
    """A segmentor and its inputs, as EVALUATION.md calls them."""
    model = model_zoo.get("camvid/fpn_efficientnet_lite0_linear", trained=True, device="cpu")
    image = torch.from_numpy(cv2.imread(str(STREET))[::4, ::4, ::-1].copy()).permute(2, 0, 1)
    return {"model": model, "inputs": [{"image": image}]}


def prepare_faq():
    """The metrics.json of a run."""
    folder = Path("output/camvid/fpn_resnet18_context_aware")
    folder.mkdir(parents=True)
    row = {"iteration": 19, "total_loss": 2.5, "camvid_sem_seg_val/sem_seg/mIoU": 12.0}
    (folder / "metrics.json").write_text(json.dumps(row))
    return {}


def prepare_classifiers():
    """A checkpoint under the names of the authors' code."""
    arrays = np.load(ROOT / "tests" / "fixtures" / "context_aware.npz")
    state = {
        "decode_head." + key.removeprefix("state/"): torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith("state/")
    }
    torch.save({"state_dict": state, "meta": {"epoch": 1}}, "released_checkpoint.pth")
    return {}


def check_readme(namespace, _):
    assert namespace["result"].labels.shape == namespace["sure"].shape == (400, 300)
    assert list(namespace["result"].shares())[:3] == ["Building", "Sky", "Car"]


def check_classifiers(namespace, _):
    ContextAwareClassifier(16, 7).load_state_dict(namespace["weights"])


def check_extending(_, tiny_config):
    """EXTENDING.md's YAML, with the head and the classifier of its Python examples."""
    page = ROOT / "docs" / "EXTENDING.md"
    tiny_config.MODEL.SEM_SEG_HEAD.NAME = "LastStageHead"
    config = re.search(r"```yaml\n(MODEL:.*?)```", page.read_text(), re.DOTALL)
    tiny_config.merge_from_other_cfg(CfgNode.load_cfg(config[1]))
    model = build_model(tiny_config).eval()
    with torch.no_grad():
        output = model([{"image": torch.zeros(3, 64, 64)}])
    assert type(model.classifier).__name__ == "CosineClassifier"
    assert model.classifier.scale == 15.0
    assert output[0]["sem_seg"].shape == (5, 64, 64)


PREPARE = {
    "EVALUATION.md": prepare_evaluation,
    "FAQ.md": prepare_faq,
    "CLASSIFIERS.md": prepare_classifiers,
}
CHECK = {
    "README.md": check_readme,
    "CLASSIFIERS.md": check_classifiers,
    "EXTENDING.md": check_extending,
}


def test_the_photograph_becomes_an_overlay_as_the_readme_says(tmp_path, monkeypatch):
    command = next(words for words in commands_of(ROOT / "README.md") if words[1:2] == ["demo"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    demo = COMMANDS["demo"]
    demo.load()(demo.parser().parse_args(command[2:]))
    overlay = cv2.imread("output/pictures/street.jpg")
    assert overlay.shape[0] >= 400  # the legend stands beside it
