"""What the cases of bad_inputs.yaml need: a dataset, a config, a trained run, broken files."""

import argparse
import gc
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

CONFIG = """
_BASE_: "{root}/configs/Base-Segmentor.yaml"
DATALOADER: {NUM_WORKERS: 0}
DATASETS: {TRAIN: [context_shapes_sem_seg_train], TEST: [context_shapes_sem_seg_val]}
INPUT:
  MIN_SIZE_TRAIN: [48]
  MAX_SIZE_TRAIN: 96
  MIN_SIZE_TEST: 0
  COLOR_AUG_SSD: False
  CROP: {SIZE: [32, 32]}
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: LinearSegmentor
  ENCODER: {NAME: tu-test_resnet, WEIGHTS: ""}
  SEM_SEG_HEAD:
    NUM_CLASSES: 6
    DECODER: {NAME: FPN, OPTIONS: [pyramid_channels, 32, segmentation_channels, 32]}
SOLVER: {OPTIMIZER: ADAMW, IMS_PER_BATCH: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 1, WARMUP_ITERS: 2}
TEST: {NUM_OVERLAYS: 0, NUM_EXAMPLES: 0}
SEED: 7
"""


def import_libraries(root: Path) -> None:
    """Import what the programs of the checkout ``root`` use, for the forks of this process."""
    sys.path.insert(0, str(root))
    import d2_ctxseg.comparison.page
    import d2_ctxseg.deployment.export
    import d2_ctxseg.deployment.predictor
    import d2_ctxseg.engine
    import d2_ctxseg.model_zoo.publish
    import d2_ctxseg.report
    import d2_ctxseg.visualization.classifier_views  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # imports torch._dynamo, which takes seconds
    gc.freeze()  # forks need not copy the memory that collecting garbage would touch
    found = Path(d2_ctxseg.__file__).resolve().parents[1]
    assert found == root.resolve(), f"d2_ctxseg is that of {found}: set PYTHONPATH to {root}"


def make_shared_files(folder: Path, root: Path | None = None) -> Path:
    """What many cases read and none changes; returns the folder.

    ``datasets`` (DETECTRON2_DATASETS), ``tiny.yaml``, ``weights.pth``, ``image.png``, and ``run``,
    which looks as the OUTPUT_DIR of a training of ``tiny.yaml`` after its first iteration.
    """
    from d2_ctxseg.data import ContextShapesOptions, generate_context_shapes
    from d2_ctxseg.engine import setup_config
    from detectron2.modeling import build_model

    root = root or Path(__file__).resolve().parents[2]
    folder.mkdir(parents=True)
    options = ContextShapesOptions(num_train=4, num_val=2, height=48, width=64)
    generate_context_shapes(folder / "datasets" / "context_shapes", options)
    (folder / "tiny.yaml").write_text(CONFIG.replace("{root}", str(root)))
    torch.manual_seed(0)
    cfg = setup_config(str(folder / "tiny.yaml"), [])
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    optimizer = _trained_optimizer(cfg, model)
    state = {
        "model": model.state_dict(),
        "trainer": {"iteration": 0, "_trainer": {"iteration": 0, "optimizer": optimizer}},
        "iteration": 0,
    }
    torch.save(state, run / "model_0000000.pth")
    (run / "last_checkpoint").write_text("model_0000000.pth")
    return folder


def _trained_optimizer(cfg, model) -> dict:
    from d2_ctxseg.engine.optimizer import build_optimizer

    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def make_file(path: Path, kind: str, shared: Path) -> None:
    """Make a file or folder of a ``kind``: the name of one of the functions below, and words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, *words = kind.split()
    _MAKERS[name](path, shared, *words)


def _folder(path: Path, shared: Path) -> None:
    path.mkdir()


def _link(path: Path, shared: Path, target: str) -> None:
    path.symlink_to(target)


def _binary(path: Path, shared: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def _latin1(path: Path, shared: Path) -> None:
    """A YAML text with an umlaut, not in UTF-8."""
    text = f"# f\xfcr\n_BASE_: {shared}/tiny.yaml\nOUTPUT_DIR: stra\xdfe\nname: stra\xdfe\n"
    path.write_bytes(text.encode("latin-1"))


def _copy(path: Path, shared: Path, name: str) -> None:
    source = shared / name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)


def _truncated(path: Path, shared: Path, name: str) -> None:
    content = (shared / name).read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _image(path: Path, shared: Path, width: str, height: str, mode: str = "RGB") -> None:
    """One colour; of any size, it takes little room."""
    Image.new(mode, (int(width), int(height)), 1).save(path)


def _bomb(path: Path, shared: Path, width: str, height: str) -> None:
    """A PNG whose header claims a size that its data does not have."""
    header = struct.pack(">IIBBBBB", int(width), int(height), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in chunks:
            checksum = struct.pack(">I", zlib.crc32(name + data))
            file.write(struct.pack(">I", len(data)) + name + data + checksum)


def _checkpoint(path: Path, shared: Path, kind: str) -> None:
    """The tiny model's weights, changed as ``kind`` says."""
    state = torch.load(shared / "weights.pth", weights_only=True)["model"]
    if kind == "nan":
        name = next(name for name in state if name.endswith("conv1.weight"))
        state[name][0, 0, 0, 0] = float("nan")
    contents = {
        "nan": state,
        "foreign": {f"module.{name}": tensor for name, tensor in state.items()}
        | {name: tensor for name, tensor in state.items() if "num_batches_tracked" in name},
        "integer_keys": {0: torch.ones(1), 1: torch.ones(2)},
        "strings": {"backbone": "resnet", "classes": 6},
        "empty": {},
        "half": {name: tensor for i, (name, tensor) in enumerate(state.items()) if i % 2},
        "list": [torch.ones(1)],
        "tensor": torch.ones(1),
        "objects": {"state_dict": state, "meta": argparse.Namespace(epoch=3)},
    }
    torch.save({"model": contents[kind]} if kind in ("nan", "half") else contents[kind], path)


def _dataset(path: Path, shared: Path, kind: str = "good") -> None:
    """A folder with data.yaml, images and labels of six classes, or of ``three``."""
    classes = ["road", "tree", "car", "sky", "sign", "wall"][: 3 if kind == "three" else 6]
    rng = np.random.default_rng(0)
    for number in range(2):
        for name in ("images", "labels"):
            (path / name).mkdir(parents=True, exist_ok=True)
        size = (48, 64)
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        label = rng.integers(0, len(classes), size, np.uint8)
        if kind == "ignored":
            label[:] = 255
        elif kind == "values":
            label[0, 0] = 77
        elif kind == "sizes":
            label = label[:40]
        elif kind == "colors":
            label = np.repeat(label[:, :, None], 3, axis=2)
        Image.fromarray(image).save(path / "images" / f"{number}.png")
        Image.fromarray(label).save(path / "labels" / f"{number}.png")
    broken = path / "images" / "1.png"
    if kind == "cut":
        broken.write_bytes(broken.read_bytes()[:600])
    elif kind == "text":
        broken.write_text("no image")
    elif kind == "bomb":
        _bomb(broken, shared, "60000", "60000")
    elif kind == "label_bomb":
        _bomb(path / "labels" / "1.png", shared, "60000", "60000")
    elif kind == "loop":
        (path / "images" / "again").symlink_to(path / "images")
    name = f"torture_{kind}"
    (path / "data.yaml").write_text(
        f"name: {name}\nclasses: [{', '.join(classes)}]\n"
        "splits: {train: {images: images, labels: labels}}\n"
    )


def _video(path: Path, shared: Path, part: str = "1") -> None:
    """30 frames of noise; of ``part`` below 1, the file ends before the last of them."""
    codec, rng = cv2.VideoWriter_fourcc(*"MJPG"), np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 5, (64, 48))
    for _ in range(30):
        writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * float(part))])


def _onnx(path: Path, shared: Path, kind: str = "other") -> None:
    """A file of ONNX: a ``segmentor`` as tools/export_model.py writes one, or any other."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["batch", 3, "height", "width"]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    labels = helper.make_tensor_value_info("labels", TensorProto.INT64, ["b", "h", "w"])
    node = helper.make_node("ArgMax", ["image"], ["labels"], axis=1, keepdims=0)
    graph = helper.make_graph([node], "graph", [image], [labels])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if kind == "segmentor":
        lists = {
            "classes": ["a", "b", "c"],
            "colors": [[0, 0, 0], [9, 9, 9], [99, 99, 99]],
            "input_size": None,
            "test_size": [0, 0],
            "padding": [0.0, 0.0, 0.0],
        }
        metadata = {name: json.dumps(value) for name, value in lists.items()}
        helper.set_model_props(model, {**metadata, "image_format": "RGB", "output": "labels"})
    onnx.save(model, path)


_MAKERS = {
    "folder": _folder,
    "link": _link,
    "binary": _binary,
    "latin1": _latin1,
    "copy": _copy,
    "truncated": _truncated,
    "image": _image,
    "bomb": _bomb,
    "checkpoint": _checkpoint,
    "dataset": _dataset,
    "video": _video,
    "onnx": _onnx,
}
