"""Trainings that are killed and resumed, and the comparison of two runs bit for bit.

A run is a fork of this process, which has imported everything already, so that it starts at once.
"""

import json
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tiny_training import TinyTestBackbone  # noqa: F401  (registers it)
from tqdm import tqdm
from train_net_runs import ROOT

import d2_ctxseg.engine  # noqa: F401  (imported before the forks)
from d2_ctxseg.data import ContextShapesOptions, generate_context_shapes
from d2_ctxseg.engine.metrics import TIMES

# What random numbers can reach: order, augmentation, dropout, Gumbel draws, batch statistics.
CONFIG = """
_BASE_: "{root}/configs/Base-Segmentor.yaml"
DATASETS:
  TRAIN: ["context_shapes_sem_seg_train"]
  TEST: ["context_shapes_sem_seg_val"]
DATALOADER: {{NUM_WORKERS: 0}}
INPUT:
  MIN_SIZE_TRAIN: [48]
  MAX_SIZE_TRAIN: 256
  RATIO_RANGE: [0.75, 1.5]
  MIN_SIZE_TEST: 48
  CROP: {{SIZE: [32, 32]}}
MODEL:
  DEVICE: "cpu"
  META_ARCHITECTURE: "PrototypeSegmentor"
  BACKBONE: {{NAME: "TinyTestBackbone"}}
  SEM_SEG_HEAD:
    NAME: "SemSegFPNHead"
    IN_FEATURES: ["res2", "res3"]
    CONVS_DIM: 8
    NORM: ""
    NUM_CLASSES: 6
SOLVER:
  OPTIMIZER: "ADAMW"
  BASE_LR: 0.01
  WARMUP_ITERS: 5
  IMS_PER_BATCH: 4
  MAX_ITER: 30
  CHECKPOINT_PERIOD: 4
TEST: {{EVAL_PERIOD: 6, NUM_OVERLAYS: 0}}
SEED: 7
OUTPUT_DIR: "{output}"
"""


def write_dataset(root: Path) -> None:
    """ContextShapes of 12 and 5 images below ``root``, every third one upright."""
    options = ContextShapesOptions(num_train=12, num_val=5)
    generate_context_shapes(root / "context_shapes", options)
    for path in (root / "context_shapes").rglob("*.png"):
        if int(path.stem) % 3 == 0:
            with Image.open(path) as image:
                rotated = image.transpose(Image.Transpose.ROTATE_90)
            rotated.save(path)


def write_config(path: Path, output: Path) -> Path:
    """The config file of a run of 30 iterations with a model of a few thousand parameters."""
    path.write_text(CONFIG.format(root=ROOT, output=output))
    return path


def start(*arguments, console: Path, before: Callable[[], None] = lambda: None) -> int:
    """Start train_net.py in a fork with a process group of its own.

    Args:
        arguments: of the command line.
        console: what it prints is added to this file.
        before: called in the fork first.

    Returns:
        The process id.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        output = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        torch.set_num_threads(1)
        # The one of before is shared by all forks, and would stay locked by one that was killed.
        tqdm.set_lock(threading.RLock())
        sys.argv = ["train_net.py", *map(str, arguments)]
        before()
        runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
        code = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> int:
    """End a process and those it started at once; its exit code."""
    os.killpg(pid, signal.SIGKILL)
    return wait(pid)


# What a run leaves behind, but for logs and times.
RESULTS = (
    *("model_final*.pth", "model_best.pth", "metrics.json", "evaluation.json"),
    *("overlays/*", "inference/**/*.*"),
)


def differences(one: Path, other: Path) -> list[str]:
    """In what the results of two runs differ, but for times; empty if they agree bit for bit."""
    found = [str(path) for folder in (one, other) for path in folder.rglob("*.part")]
    paths = [(folder, path) for folder in (one, other) for r in RESULTS for path in folder.glob(r)]
    for name in sorted({path.relative_to(folder) for folder, path in paths if path.is_file()}):
        if not ((one / name).is_file() and (other / name).is_file()):
            found.append(f"{name}: only in one of them")
        elif _content(one, name) != _content(other, name):
            found.append(f"{name}: {_first(_content(one, name), _content(other, name))}")
    return found


def _content(folder: Path, name: Path):
    path = folder / name
    if path.suffix == ".pth":
        content = torch.load(path, weights_only=True)
        del content["config"]  # of this process: OUTPUT_DIR, number of workers
        return flattened(content)
    if name.name == "metrics.json":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: row[key] for key in row.keys() - TIMES} for row in rows]
    text = path.read_bytes()
    return text.replace(str(folder).encode(), b"")


def flattened(value, prefix: str = "") -> dict:
    """Nested containers as one dict, tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return {prefix: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    items = enumerate(value) if isinstance(value, (list, tuple)) else None
    items = value.items() if isinstance(value, dict) else items
    if items is None:
        return {prefix: value}
    return {k: v for key, item in items for k, v in flattened(item, f"{prefix}/{key}").items()}


def _first(one, other) -> str:
    if isinstance(one, dict):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return f"{keys[0]} and {len(keys) - 1} more"
    if isinstance(one, list):
        rows = [(a, b) for a, b in zip(one, other) if a != b]
        return f"{len(one)} and {len(other)} rows; {rows[:1]}"
    return "other bytes"
