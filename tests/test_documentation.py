"""The Python examples and the file names in the documentation are true."""

import re

import numpy as np
import pytest
import torch
from train_net_runs import ROOT

from d2_ctxseg.classifiers import ContextAwareClassifier
from detectron2.config import CfgNode
from detectron2.modeling import build_model

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "datasets" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    names = re.findall(
        r"(?<![\w/.-])((?:benchmarks|configs|tools|demo|datasets|docs|tests)/[\w/.-]+\.(?:py|yaml|md))",
        page.read_text(),
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_python_examples_run(monkeypatch, tiny_config):
    monkeypatch.chdir(ROOT)
    for page in (ROOT / "README.md", ROOT / "docs" / "EXTENDING.md"):
        for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
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
