"""Runs train_net.py for the tests, on a small ContextShapes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2_ctxseg.data import ContextShapesOptions, generate_context_shapes

ROOT = Path(__file__).parent.parent
TINY_RUN = """
_BASE_: "{root}/configs/Base-Segmentor.yaml"
DATALOADER: {{NUM_WORKERS: 0}}
DATASETS:
  TRAIN: ["context_shapes_sem_seg_train"]
  TEST: ["context_shapes_sem_seg_val"]
INPUT:
  MIN_SIZE_TRAIN: [96]
  MAX_SIZE_TRAIN: 512
  RATIO_RANGE: [0.75, 1.5]
  MIN_SIZE_TEST: 0
  COLOR_AUG_SSD: False
  CROP: {{SIZE: [64, 64]}}
MODEL:
  ENCODER: {{NAME: "tu-test_resnet", WEIGHTS: ""}}
  SEM_SEG_HEAD:
    NUM_CLASSES: 6
    DECODER:
      NAME: "FPN"
      OPTIONS: ["pyramid_channels", 32, "segmentation_channels", 32]
SOLVER:
  OPTIMIZER: "ADAMW"
  BASE_LR: 0.001
  WEIGHT_DECAY: 0.01
  WEIGHT_DECAY_NORM: 0.0
  WARMUP_ITERS: 20
  IMS_PER_BATCH: 4
  MAX_ITER: 4
  CHECKPOINT_PERIOD: 2
TEST: {{EVAL_PERIOD: 2, NUM_OVERLAYS: 1, AUG: {{RATIOS: [1.0, 1.25]}}}}
SEED: 7
OUTPUT_DIR: "{output}"
"""


@pytest.fixture(scope="session")
def context_shapes_root(tmp_path_factory) -> Path:
    """A folder for DETECTRON2_DATASETS that holds 12 training and 5 validation images."""
    root = tmp_path_factory.mktemp("datasets")
    options = ContextShapesOptions(num_train=12, num_val=5)
    generate_context_shapes(root / "context_shapes", options)
    return root


@pytest.fixture
def tiny_run(tmp_path, context_shapes_root, monkeypatch) -> Path:
    """A config file of a run of four iterations; its OUTPUT_DIR is ``output`` beside it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RUN.format(root=ROOT, output=tmp_path / "output"))
    return path


def start_train_net(*arguments, launcher=()) -> subprocess.Popen:
    """train_net.py as a process of its own, its output in one pipe."""
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "train_net.py"), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that a signal to its group does not reach the tests
    )


def run_train_net(*arguments, launcher=()) -> tuple[int, str]:
    """Exit code and output of train_net.py."""
    process = start_train_net(*arguments, launcher=launcher)
    output = process.communicate(timeout=600)[0]
    return process.returncode, output
