"""Files written whole or not at all."""

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w"):
    """A file that takes its name ``path`` only once it is complete.

    It is written under a temporary name in the same folder (made if needed), flushed to the disk,
    and renamed. If writing fails, what stood at ``path`` stays as it was.

    Args:
        path: where the file shall be.
        mode: ``"w"`` (text, UTF-8) or ``"wb"``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, content) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinity become null."""
    with atomic_write(path) as file:
        json.dump(_finite(content), file, indent=2)
        file.write("\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
