"""For the tests of demo/app.py: trained models, and a picture that is a bomb."""

import struct
import zlib
from pathlib import Path

import torch
from test_demo import CONFIG, DATASET

from d2_ctxseg.engine.setup import setup_config
from detectron2.modeling import build_model


def make_run(folder: Path, meta_architecture: str, dataset: str) -> Path:
    """The output folder of a training that tells dark pixels from bright ones.

    Args:
        folder: to be made.
        meta_architecture: as MODEL.META_ARCHITECTURE.
        dataset: a name that no other test module registers.
    """
    folder.mkdir(parents=True)
    description = folder.parent / f"{dataset}.yaml"
    description.write_text(DATASET.replace("daylight", dataset))
    config = CONFIG.replace("LinearSegmentor", meta_architecture)
    config = config.replace("daylight", dataset).replace("$HERE", str(folder.parent))
    (folder / "config.yaml").write_text(config)
    torch.manual_seed(0)
    model = build_model(setup_config(str(folder / "config.yaml"), []))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        labels = torch.randint(0, 2, (4, 2, 2)).repeat_interleave(32, 1).repeat_interleave(32, 2)
        images = labels[:, None] * 200 + torch.randint(0, 40, (4, 3, 64, 64))
        batch = [{"image": i.float(), "sem_seg": y} for i, y in zip(images, labels)]
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return folder


def write_bomb(path: Path, width: int, height: int) -> Path:
    """A PNG file of a single colour: a few KB, however many pixels it has."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + width // 8)) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(rows) + packer.flush())
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    return path
