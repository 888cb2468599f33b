"""ContextShapes: a small synthetic dataset that needs context (see context_shapes_scene).

It is generated in seconds and is identical on every machine, because it uses a fixed random stream
and integer arithmetic. Results are therefore comparable, and nothing has to be downloaded.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..utils.png import encode_png
from .context_shapes_scene import draw_scene
from .errors import DatasetError

MANIFEST_NAME = "context_shapes.json"
# Increase it when the drawing changes, so that data of an older version is recognised.
_VERSION = 1


@dataclass(frozen=True)
class ContextShapesOptions:
    """The options of the data. The defaults are those of the registered datasets.

    Attributes:
        seed: seed of the random numbers, 0 .. 2^32 - 1.
        num_train: number of training images.
        num_val: number of validation images.
        height: height of the images in pixels, at least 32.
        width: width of the images in pixels, at least 32.
    """

    seed: int = 0
    num_train: int = 320
    num_val: int = 80
    height: int = 96
    width: int = 128

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise DatasetError(f"The seed must lie in 0..2^32-1, but is {self.seed}.")
        if min(self.num_train, self.num_val) < 1:
            raise DatasetError("ContextShapes needs at least one image in each split.")
        if min(self.height, self.width) < 32:
            raise DatasetError(
                f"Images must have at least 32x32 pixels, not {self.width}x{self.height}."
            )

    @property
    def num_images(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val}


def generate_context_shapes(
    folder: str | Path,
    options: ContextShapesOptions = ContextShapesOptions(),  # noqa: B008 (it is frozen)
    *,
    overwrite: bool = False,
) -> bool:
    """Generate the dataset in ``folder``, completely or not at all.

    Args:
        folder: gets images/{train,val}/NNNN.png, labels/{train,val}/NNNN.png and a manifest.
        overwrite: replace a different ContextShapes in ``folder``.

    Returns:
        False if ``folder`` already contains exactly this dataset, True if it was generated.

    Raises:
        DatasetError: ``folder`` contains other data, and ``overwrite`` is False or the data is not
            a ContextShapes dataset. Such data is never deleted.
    """
    folder = Path(folder)
    if holds_context_shapes(folder, options):
        return False
    _check_replaceable(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workplace:
        complete, old = Path(workplace) / "new", Path(workplace) / "old"
        _write_splits(complete, options)
        if holds_context_shapes(folder, options):  # another process was faster
            return False
        if folder.exists():
            folder.rename(old)
        complete.rename(folder)
    return True


def holds_context_shapes(folder: Path, options: ContextShapesOptions) -> bool:
    """Whether ``folder`` holds the dataset of these options, all files unchanged."""
    manifest = _read_manifest(folder)
    if manifest is None or manifest.get("options") != asdict(options):
        return False
    return manifest.get("version") == _VERSION and manifest.get("sha256") == digest(folder)


def digest(folder: Path) -> str:
    """SHA-256 over the names and the bytes of all images and labels, in order of their names."""
    result = hashlib.sha256()
    for path in sorted(folder.glob("*/*/*.png")):
        result.update(path.relative_to(folder).as_posix().encode() + b"\0")
        result.update(path.read_bytes())
    return result.hexdigest()


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if _read_manifest(folder) is None:
        raise DatasetError(
            f"{folder} exists and is not a ContextShapes dataset ({MANIFEST_NAME} is missing). "
            "It will not be touched: name another folder."
        )
    if not overwrite:
        raise DatasetError(
            f"{folder} holds a ContextShapes dataset with other options or changed files. "
            "Use --overwrite to replace it, or name another folder."
        )


def _read_manifest(folder: Path) -> dict | None:
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _write_splits(folder: Path, options: ContextShapesOptions) -> None:
    # RandomState and not default_rng: NumPy keeps the stream of RandomState the same for good
    # (NEP 19), while that of a Generator may change between versions.
    rng = np.random.RandomState(options.seed)
    total = options.num_train + options.num_val
    with tqdm(total=total, desc="ContextShapes", unit="image") as progress:
        for split, num_images in options.num_images.items():
            images, labels = folder / "images" / split, folder / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for index in range(num_images):
                scene = draw_scene(rng, options.height, options.width)
                (images / f"{index:04d}.png").write_bytes(encode_png(scene.image))
                (labels / f"{index:04d}.png").write_bytes(encode_png(scene.label))
                progress.update()
    manifest = {"version": _VERSION, "options": asdict(options), "sha256": digest(folder)}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
