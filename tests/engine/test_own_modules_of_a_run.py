"""IMPORTS: a config with a head and a classifier of one's own, from training to other folders."""

import shutil
import subprocess
import sys

import pytest
import yaml
from data_folders import run_script
from train_net_runs import ROOT

from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.errors import UserError

MODULE = '''
from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY, LinearClassifier


@CLASSIFIER_REGISTRY.register()
class {name}(LinearClassifier):
    """A classifier of one's own."""
'''


@pytest.fixture
def own_run(tiny_run):
    """A config that names a classifier of a file beside it; returns both names."""
    name = f"Own{abs(hash(str(tiny_run)))}Classifier"
    module = f"own_{name.lower()}"
    (tiny_run.parent / f"{module}.py").write_text(MODULE.format(name=name))
    path = tiny_run.parent / "own.yaml"
    content = {
        "_BASE_": tiny_run.name,
        "IMPORTS": [f"{module}.py"],
        "MODEL": {
            "META_ARCHITECTURE": "PixelClassifierSegmentor",
            "CLASSIFIER": {"NAME": name},
        },
    }
    path.write_text(yaml.safe_dump(content))
    yield path, module
    sys.modules.pop(module, None)


def test_what_a_module_registers_can_be_named(own_run, tmp_path, monkeypatch):
    path, module = own_run
    monkeypatch.chdir("/")  # paths are relative to the config
    cfg = setup_config(str(path), [])
    assert [str(path.parent / f"{module}.py")] == cfg.IMPORTS
    assert module in sys.modules


def test_overrides_name_modules_relative_to_the_working_directory(own_run, monkeypatch):
    path, module = own_run
    monkeypatch.chdir(path.parent)
    cfg = setup_config(str(path), ["IMPORTS", f"['{module}.py', 'json.tool']"])
    assert [str(path.parent / f"{module}.py"), "json.tool"] == cfg.IMPORTS
    with pytest.raises(UserError, match="IMPORTS is 'a.py', expected a list"):
        setup_config(str(path), ["IMPORTS", "a.py"])


def test_import_adds_to_what_the_config_names(own_run, monkeypatch, capsys):
    path, module = own_run
    monkeypatch.chdir(path.parent)
    (path.parent / "own_broken.py").write_text("\nundefined\n")
    arguments = ["--config-file", path, "--import", "own_broken.py"]
    assert run_script(ROOT / "tools" / "analyze_model.py", *arguments) == 1
    assert "own_broken.py: NameError: name 'undefined'" in capsys.readouterr().err
    assert module in sys.modules
    assert run_script(ROOT / "tools" / "analyze_model.py", "--config-file", path) == 0


@pytest.mark.slow
def test_a_run_keeps_its_modules_and_may_be_moved(own_run, tmp_path, context_shapes_root):
    path, module = own_run
    assert run_script(ROOT / "train_net.py", "--config-file", path) == 0
    saved = yaml.safe_load((tmp_path / "output" / "config.yaml").read_text())
    assert saved["IMPORTS"] == [f"imports/{module}.py"]
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(tmp_path / "output", moved)
    (path.parent / f"{module}.py").unlink()
    # In a process of its own, which has not seen the module.
    command = [sys.executable, "-m", "d2_ctxseg_cli", "eval", "--run", moved]
    process = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "mIoU" in (moved / "evaluation.json").read_text()
