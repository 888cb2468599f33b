"""The Python examples and the file names in the documentation are true."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from train_net_runs import ROOT

from d2_ctxseg.classifiers import ContextAwareClassifier
from d2_ctxseg.commands.command_line import COMMANDS
from d2_ctxseg.engine.config_files import find_config_file
from d2_ctxseg.engine.validate_config import all_keys, default_config
from detectron2.config import CfgNode
from detectron2.modeling import build_model

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "datasets" / "README.md",
]

STREET = ROOT / "docs" / "pictures" / "street_linear.jpg"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    names = re.findall(
        r"(?<![\w/.-])((?:benchmarks|configs|tools|demo|datasets|docs|tests)/[\w/.-]+\.(?:py|yaml|md))",
        page.read_text(),
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


def commands_of(page):
    """The command lines of d2-ctxseg in a page's shell examples, as words without comments."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "d2-ctxseg" in words:
                end = next((i for i, w in enumerate(words) if w in (">", "|", "2>&1")), None)
                yield words[words.index("d2-ctxseg") + 1 : end]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_arguments_that_their_programs_take(page, capsys):
    keys = set(all_keys(default_config()))
    for name, *words in commands_of(page):
        try:
            arguments = COMMANDS[name].parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"d2-ctxseg {name} {shlex.join(words)}: {capsys.readouterr().err}")
        config = getattr(arguments, "config_file", None) or ""
        assert not config.startswith("configs/") or Path(find_config_file(config)).is_file()
        assert set(getattr(arguments, "opts", [])[::2]) <= keys


def test_the_index_of_tools_has_every_command():
    page = (ROOT / "docs" / "TOOLS.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `(\S+?)[ `]", page, re.MULTILINE))
    assert set(rows) == set(COMMANDS)
    for name, script in rows.items():
        door = "train" if name == "eval" else name
        assert f'main("{door}")' in (ROOT / script).read_text()


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


def test_python_examples_run(monkeypatch, tiny_config):
    monkeypatch.chdir(ROOT)
    for page in (ROOT / "README.md", ROOT / "docs" / "EXTENDING.md"):
        for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            example = example.replace('"street.jpg"', repr(str(STREET)))
            exec(compile(example, str(page), "exec"), {"__name__": "example"})
    tiny_config.MODEL.SEM_SEG_HEAD.NAME = "LastStageHead"
    config = re.search(
        r"```yaml\n(MODEL:.*?)```", (ROOT / "docs" / "EXTENDING.md").read_text(), re.DOTALL
    )
    tiny_config.merge_from_other_cfg(CfgNode.load_cfg(config[1]))
    model = build_model(tiny_config).eval()
    with torch.no_grad():
        output = model([{"image": torch.zeros(3, 64, 64)}])
    assert type(model.classifier).__name__ == "CosineClassifier"
    assert model.classifier.scale == 15.0
    assert output[0]["sem_seg"].shape == (5, 64, 64)


def test_the_library_example_runs():
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs/LIBRARY.md").read_text(), re.DOTALL)
    namespace = {"__name__": "example"}
    exec(example[1].replace('"street.jpg"', repr(str(STREET))), namespace)
    assert namespace["result"].labels.shape == namespace["result"].confidence.shape


def test_example_of_the_authors_weights_runs(monkeypatch, tmp_path):
    arrays = np.load(ROOT / "tests" / "fixtures" / "context_aware.npz")
    state = {
        "decode_head." + key.removeprefix("state/"): torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith("state/")
    }
    torch.save({"state_dict": state, "meta": {"epoch": 1}}, tmp_path / "released_checkpoint.pth")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "CLASSIFIERS.md").read_text()
    namespace = {"__name__": "example"}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(example, "CLASSIFIERS.md", "exec"), namespace)
    ContextAwareClassifier(16, 7).load_state_dict(namespace["weights"])
