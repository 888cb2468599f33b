"""An installed package has the configs, though they lie outside the package in the repository."""

import os
import subprocess
import sys

import pytest
from train_net_runs import ROOT

PROGRAM = """
import d2_ctxseg
from d2_ctxseg import model_zoo
from detectron2.config import CfgNode

for name in model_zoo.config_names():
    path = model_zoo.get_config_file(name)
    CfgNode.load_yaml_with_base(path)
    print(path)
print(model_zoo.get_config("quickstart").SOLVER.LR_SCHEDULER_NAME)
print(model_zoo.read_trained_models().keys() == {names})
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel would put into site-packages."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("site-packages")
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def test_every_config_is_found_and_its_bases_with_it(installed, tmp_path):
    from d2_ctxseg.model_zoo import config_names, read_trained_models

    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(names=set(read_trained_models()))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    *paths, schedule, has_trained_models = result.stdout.split("\n")[:-1]
    folder = installed / "d2_ctxseg" / "model_zoo" / "configs"
    assert paths == [str(folder / f"{name}.yaml") for name in config_names()]
    assert schedule == "WarmupPolyLR" and has_trained_models == "True"


def test_all_files_of_the_configs_are_there_and_nothing_else(installed):
    folder, configs = installed / "d2_ctxseg" / "model_zoo" / "configs", ROOT / "configs"
    there, expected = (
        {path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.suffix != ".pyc"}
        for root in (folder, configs)
    )
    assert there == expected and "lazy/context_shapes.py" in there


def test_the_program_for_onnx_files_is_there_and_needs_nothing_of_the_package(installed):
    program = installed / "d2_ctxseg" / "deployment" / "onnx_inference.py"
    assert program.read_bytes() == (ROOT / "demo" / "onnx_inference.py").read_bytes()
    assert "d2_ctxseg import" not in program.read_text()
    assert "import torch" not in program.read_text()


def test_the_templates_of_pages_are_there(installed):
    package = ROOT / "d2_ctxseg"
    files = [path for kind in ("html", "css", "js") for path in package.rglob(f"*.{kind}")]
    assert len(files) >= 5
    missing = [path for path in files if not (installed / path.relative_to(ROOT)).exists()]
    assert missing == []


def test_the_command_works_from_any_folder(installed, tmp_path):
    assert (installed / "d2_ctxseg" / "py.typed").is_file()
    command = [sys.executable, "-m", "d2_ctxseg_cli", "train", "--config-file"]
    # Both names are looked up in the package; the dataset's files are not there.
    for name in ("camvid/fpn_resnet18_linear", "configs/camvid/fpn_resnet18_linear.yaml"):
        result = subprocess.run(
            [*command, name, "MODEL.ENCODER.WEIGHTS", "", "DATASETS.TEST", "()"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert "DETECTRON2_DATASETS" in result.stderr and "Traceback" not in result.stderr
