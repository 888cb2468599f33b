"""What only the embedded runtime does. Where Detectron2 is installed, all of this is skipped."""

import importlib
import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import detectron2
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

pytestmark = pytest.mark.skipif(
    not is_embedded(), reason="the installed Detectron2 runs here, not the embedded runtime"
)

INSTALL_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


class TestCoverage:
    @pytest.mark.parametrize("module", ["detectron2.export", "detectron2.modeling.roi_heads"])
    def test_a_module_that_is_not_covered_names_the_install_guide(self, module):
        with pytest.raises(ImportError, match=INSTALL_GUIDE) as error:
            importlib.import_module(module)
        assert f"'{module}'" in str(error.value)

    def test_a_name_that_is_not_covered_names_the_install_guide(self):
        """Asked of every module, so that none is without its guard."""
        root = Path(detectron2.__file__).parent
        modules = [path.relative_to(root.parent) for path in root.rglob("*.py")]
        modules.remove(Path("detectron2/_coverage.py"))
        for path in modules:
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            with pytest.raises(ImportError, match=rf"'{name}\.NoSuchName'.*{INSTALL_GUIDE}"):
                exec(f"from {name} import NoSuchName")
            assert not hasattr(importlib.import_module(name), "__no_such_name__")
        assert len(modules) > 30

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("data", "DatasetMapper"),
            ("engine", "DefaultPredictor"),
            ("evaluation", "SemSegEvaluator"),
            ("utils.visualizer", "Visualizer"),
        ],
    )
    def test_the_message_names_what_this_project_has_instead(self, module, name):
        with pytest.raises(ImportError, match=r"Use d2_ctxseg\.[\w.]+, or install") as error:
            exec(f"from detectron2.{module} import {name}")
        path = re.search(r"d2_ctxseg\.([\w.]+),", str(error.value))[1]
        package, _, attribute = path.rpartition(".")
        assert hasattr(importlib.import_module(f"d2_ctxseg.{package}"), attribute)

    def test_other_missing_modules_are_ordinary_errors(self):
        with pytest.raises(ModuleNotFoundError) as error:
            importlib.import_module("no_such_library_at_all")
        assert INSTALL_GUIDE not in str(error.value)


@pytest.fixture
def warnings():
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("detectron2")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


class TestConfigFiles:
    def test_sections_for_boxes_are_left_out_with_one_warning(self, tmp_path, warnings):
        path = tmp_path / "config.yaml"
        path.write_text(
            "MODEL:\n"
            "  MASK_ON: true\n"
            "  RPN: {NMS_THRESH: 0.7}\n"
            "  ROI_HEADS: {NUM_CLASSES: 80}\n"
            "  SEM_SEG_HEAD: {NUM_CLASSES: 19}\n"
            "TEST: {KEYPOINT_OKS_SIGMAS: [], EVAL_PERIOD: 5}\n"
        )
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.TEST.EVAL_PERIOD) == (19, 5)
        assert "RPN" not in cfg.MODEL
        (warning,) = warnings
        assert str(path) in warning
        assert warning.endswith(
            ": MODEL.MASK_ON, MODEL.RPN, MODEL.ROI_HEADS, TEST.KEYPOINT_OKS_SIGMAS"
        )

    def test_such_a_section_is_read_where_a_project_defines_it(self, tmp_path, warnings):
        path = tmp_path / "config.yaml"
        path.write_text("MODEL: {RPN: {NMS_THRESH: 0.5}}\n")
        cfg = get_cfg()
        cfg.MODEL.RPN = type(cfg)({"NMS_THRESH": 0.7})
        cfg.merge_from_file(str(path))
        assert cfg.MODEL.RPN.NMS_THRESH == 0.5
        assert warnings == []

    def test_tags_that_run_code_are_refused_even_if_allowed(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(f"SEED: !!python/object/apply:os.mkdir ['{tmp_path}/ran']\n")
        with pytest.raises(ValueError, match="os.mkdir") as error:
            get_cfg().merge_from_file(str(path), allow_unsafe=True)
        assert str(path) in str(error.value)
        assert not (tmp_path / "ran").exists()

    def test_old_version_is_an_error(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text("VERSION: 1\n")
        with pytest.raises(AssertionError, match="VERSION 1.*upgrade_config"):
            get_cfg().merge_from_file(str(path))


class TestFiles:
    @pytest.mark.parametrize("path", ["detectron2://x/R-50.pkl", "catalog://ImageNetPretrained/x"])
    def test_model_zoo_is_not_read(self, path):
        for access in (PathManager.get_local_path, PathManager.open, PathManager.isfile):
            with pytest.raises(NotImplementedError, match=INSTALL_GUIDE):
                access(path)


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["weights.pkl", "weights.pyth"])
    def test_pickles_are_refused(self, tmp_path, name):
        (tmp_path / name).write_bytes(pickle.dumps({"model": {}}))
        with pytest.raises(ValueError, match=INSTALL_GUIDE) as error:
            DetectionCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / name))
        assert name in str(error.value)

    def test_a_file_that_not_all_processes_can_read_is_an_error(self, tmp_path, monkeypatch):
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
        )
        try:
            model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
            monkeypatch.setattr(comm, "all_gather", lambda own: [own, not own])
            torch.save({"model": {}}, tmp_path / "x.pth")
            with pytest.raises(OSError, match=r"x.pth.*rank \[1\]"):
                DetectionCheckpointer(model).load(str(tmp_path / "x.pth"))
        finally:
            torch.distributed.destroy_process_group()


class TestSolver:
    def test_fixed_gamma_survives_the_step_after_the_last_iteration(self):
        cfg = get_cfg()
        cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupStepWithFixedGammaLR"
        cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 1.0, 4, 0
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = build_lr_scheduler(cfg, optimizer)
        for _ in range(4):
            optimizer.step()
            scheduler.step()
        assert scheduler.get_last_lr() == pytest.approx([0.001])

    def test_clipping_passes_over_parameters_without_gradient(self):
        cfg = get_cfg()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
        parameters[0].grad = torch.tensor([5.0])
        maybe_add_gradient_clipping(cfg, torch.optim.SGD)(parameters, lr=1.0).step()
        assert [parameter.item() for parameter in parameters] == [-1.0, 0.0]
