"""The Python examples and the file names in the documentation are true."""

import re

import pytest
import torch
from train_net_runs import ROOT

from detectron2.modeling import build_model

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "datasets" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    names = re.findall(
        r"(?<![\w/.-])((?:configs|tools|demo|datasets|docs|tests)/[\w/.-]+\.(?:py|yaml|md))",
        page.read_text(),
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_python_examples_run(monkeypatch, tiny_config):
    monkeypatch.chdir(ROOT)
    for page in (ROOT / "README.md", ROOT / "docs" / "EXTENDING.md"):
        for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            exec(compile(example, str(page), "exec"), {"__name__": "example"})
    tiny_config.MODEL.SEM_SEG_HEAD.NAME = "LastStageHead"
    tiny_config.MODEL.META_ARCHITECTURE = "ScaledSegmentor"
    model = build_model(tiny_config).eval()
    with torch.no_grad():
        output = model([{"image": torch.zeros(3, 64, 64)}])
    assert output[0]["sem_seg"].shape == (5, 64, 64)
