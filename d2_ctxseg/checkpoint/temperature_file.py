"""The temperatures that were fitted to a checkpoint, in a file beside it."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedTemperature:
    """A temperature, and how it was found.

    Attributes:
        temperature: that class scores are divided by.
        dataset: that it was fitted on.
        pixels: of that dataset it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of these pixels at temperature 1 and at
            this one.
    """

    temperature: float
    dataset: str
    pixels: int
    nll_before: float
    nll_after: float


def temperature_file(weights: str | os.PathLike) -> Path:
    """The file beside a checkpoint: ``model_final.temperature.json`` for ``model_final.pth``."""
    return Path(weights).with_suffix(".temperature.json")


def read_temperatures(weights: str | os.PathLike) -> dict[str, FittedTemperature]:
    """What was fitted to a checkpoint, by task ("sem_seg", "sem_seg_TTA"); empty if nothing was.

    A file that was written for other weights of this name is passed over with a warning.

    Raises:
        UserError: the file is damaged.
    """
    path = temperature_file(weights)
    if not (path.is_file() and Path(weights).is_file()):
        return {}
    try:
        content = json.loads(path.read_bytes())
        found = {task: FittedTemperature(**one) for task, one in content["temperatures"].items()}
        is_of_these = content["sha256"] == _sha256(weights)
        sound = all(0 < float(one.temperature) < math.inf for one in found.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not sound:
        raise _damaged(path, "a temperature is not a positive number")
    if not is_of_these:
        logger.warning(
            "%s was fitted to other weights than %s holds now, and is not used: confidences are "
            "not calibrated. Run tools/calibrate.py again.",
            path,
            weights,
        )
        return {}
    return found


def write_temperatures(
    weights: str | os.PathLike, temperatures: Mapping[str, FittedTemperature]
) -> Path:
    """Keep what was fitted to a checkpoint beside it; returns the file's path.

    Raises:
        WriteError: the folder cannot be written to.
    """
    content = {
        "weights": Path(weights).name,
        "sha256": _sha256(weights),
        "temperatures": {task: asdict(one) for task, one in temperatures.items()},
    }
    path = temperature_file(weights)
    write_json(path, content)
    return path


def copy_temperatures(weights: str | os.PathLike, to: str | os.PathLike) -> None:
    """Keep what was fitted to a checkpoint beside another file of the same weights, too."""
    temperatures = read_temperatures(weights)
    if temperatures:
        write_temperatures(to, temperatures)
    else:
        temperature_file(to).unlink(missing_ok=True)


def _sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(
        f"'{path}' cannot be read as temperatures ({problem}). Delete it, and run "
        "tools/calibrate.py again."
    )
