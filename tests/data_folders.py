"""Makes small folder datasets for the tests: images, labels and the YAML that describes them."""

import itertools
import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import yaml
from PIL import Image

CLASSES = ["road", "tree", "car"]
IGNORE = 255

_numbers = itertools.count()


def unique_name() -> str:
    """A dataset name that no other test registers."""
    return f"testdata{next(_numbers)}"


def write_yaml(folder: Path, **changes) -> Path:
    """A valid description with one split, ``train``; a change to None removes the key."""
    description = {
        "name": unique_name(),
        "splits": {"train": {"images": "images", "labels": "labels"}},
        "classes": CLASSES,
    }
    description.update(changes)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.yaml"
    kept = {key: value for key, value in description.items() if value is not None}
    path.write_text(yaml.safe_dump(kept))
    return path


def write_image(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    """Write an array as an image; ``mode`` P makes it a palette image with those indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    image.save(path)
    return path


def write_pairs(folder: Path, names, size=(12, 16), seed=0) -> list[np.ndarray]:
    """Images (random) and labels (random classes and ignore) of ``names``; returns the labels."""
    rng = np.random.default_rng(seed)
    labels = []
    for name in names:
        write_image(folder / f"images/{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        label = rng.choice([0, 1, 2, IGNORE], size).astype(np.uint8)
        write_image(folder / f"labels/{name}.png", label)
        labels.append(label)
    return labels


def run_script(path: Path, *arguments) -> int:
    """Run a script as a program in this process (importing takes long); gives its exit code.

    A message that the program ends with is printed to stderr, as Python would do.
    """
    with mock.patch.object(sys, "argv", [str(path), *map(str, arguments)]):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return end.code or 0
    return 0
