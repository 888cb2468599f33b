"""The file beside a checkpoint that holds the temperatures fitted to it."""

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
    """A fitted temperature and the data of the fit.

    Attributes:
        temperature: the number that class scores are divided by.
        dataset: name of the dataset of the fit.
        pixels: number of pixels of the fit.
        nll_before, nll_after: mean negative log-likelihood of these pixels at temperature 1 and at
            the fitted temperature.
    """

    temperature: float
    dataset: str
    pixels: int
    nll_before: float
    nll_after: float


def temperature_file(weights: str | os.PathLike) -> Path:
    """The path of the file: ``model_final.temperature.json`` for ``model_final.pth``."""
    return Path(weights).with_suffix(".temperature.json")


def read_temperatures(weights: str | os.PathLike) -> dict[str, FittedTemperature]:
    """The temperatures fitted to a checkpoint, by task: "sem_seg", "sem_seg_TTA".

    The result is empty if no temperature was fitted. A file that was written for other weights of
    the same name is ignored with a warning.

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
            "%s is ignored, because it was fitted to other weights than those in %s: confidences "
            "are not calibrated. Run d2-ctxseg calibrate again.",
            path,
            weights,
        )
        return {}
    return found


def write_temperatures(
    weights: str | os.PathLike, temperatures: Mapping[str, FittedTemperature]
) -> Path:
    """Write the temperatures fitted to a checkpoint to a file beside it; returns the path.

    Raises:
        WriteError: the folder is not writable.
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
    """Copy the temperatures of a checkpoint to another file with the same weights.

    If ``weights`` has no temperatures, those beside ``to`` are deleted.
    """
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
        f"'{path}' is not a valid temperature file ({problem}). Delete it, and run "
        "d2-ctxseg calibrate again."
    )
