"""Write checkpoints atomically, read them safely, and check them against the model."""

import glob
import logging
import os
import pickle
import re
import zipfile
import zlib

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write, write_errors
from ..utils.runtime import is_embedded
from .pickled_arrays import read_pickled_arrays
from .weight_checks import (
    describe_differences,
    refuse_not_finite,
    refuse_other_content,
    refuse_other_names,
    refuse_what_does_not_fit,
)

LAST_FILE = "last_checkpoint"

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the same files, but safe against interruptions.

    Checkpoints are written atomically. Resuming skips damaged files and takes the latest complete
    checkpoint. Only tensors and plain containers are unpickled.
    """

    def save(self, name: str, **kwargs) -> None:
        """Write model, checkpointables and ``kwargs``; resuming then starts from this checkpoint.

        Args:
            name: name of the file ``{save_dir}/{name}.pth``.

        Raises:
            WriteError: the disk is full or read-only, or ``save_dir`` no longer exists.
        """
        self.write(name, **kwargs)
        if self.save_dir and self.save_to_disk:
            self.tag_last_checkpoint(f"{name}.pth")

    def write(self, name: str, **kwargs) -> None:
        """As :meth:`save`, but resuming does not start from this checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update((key, item.state_dict()) for key, item in self.checkpointables.items())
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with write_errors(path):
            os.stat(self.save_dir)  # do not create a deleted folder again for one file
        with atomic_write(path, "wb") as file:
            torch.save(data, file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the checkpoint that resuming starts from to ``{save_dir}/last_checkpoint``."""
        with atomic_write(os.path.join(self.save_dir, LAST_FILE)) as file:
            file.write(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The path of the checkpoint to resume from, or "" if there is none.

        The file ``last_checkpoint`` names it. If that file, or the checkpoint it names, is missing
        or damaged, resuming starts from the complete checkpoint of the latest iteration.

        Raises:
            UserError: none of the checkpoints is complete, ``last_checkpoint`` is a folder, or it
                names a file in another folder or without the trainer's state.
        """
        last = _named_last(self.save_dir)
        if last:
            problem = _problem_of(last)
            if problem is None:
                return self._complete(last)
            logger.warning("%s %s", last, problem)
        others = [path for path in _numbered(self.save_dir) if path != last]
        for path in sorted(others, key=_iteration_of, reverse=True):
            if _problem_of(path) is None and not self._missing(path):
                logger.warning("Resuming from %s, the latest complete checkpoint", path)
                return path
        if last or others:
            raise UserError(
                f"No complete checkpoint to resume from: those in '{self.save_dir}' are damaged or "
                "contain only weights. Start a new training without --resume in another folder."
            )
        return ""

    def _missing(self, path: str) -> set[str]:
        """The entries that resuming needs and the checkpoint lacks."""
        return {"trainer"} & self.checkpointables.keys() - peek_checkpoint(path).keys()

    def _complete(self, path: str) -> str:
        if self._missing(path):
            raise UserError(
                f"'{path}' contains weights, but not the state of a training (optimizer, schedule, "
                "iteration), so --resume cannot continue it. Start a new training with "
                f"MODEL.WEIGHTS {path} in another OUTPUT_DIR, or delete "
                f"'{os.path.join(self.save_dir, LAST_FILE)}' to resume from another checkpoint."
            )
        return path

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """Load as DetectionCheckpointer does.

        Raises:
            MissingFileError: the file does not exist.
            UserError: it is damaged, holds NaN or other objects than weights, or fits nothing of
                the model.
        """
        if path:
            _local_file(path)
        return super().load(path, checkpointables)

    def _load_file(self, path: str) -> dict:
        if path.endswith(".pkl") and not is_embedded():
            # A file of Detectron2's model zoo; Detectron2 renames its keys.
            return read_pickled_arrays(path)
        state = read_checkpoint(path)
        if "model" not in state:
            state = {"model": state.get("state_dict", state)}
        refuse_other_content(state["model"], path)
        refuse_not_finite(state["model"], path)
        return state

    def _load_model(self, checkpoint: dict):
        """Load the weights that fit the model, as for fine-tuning; the log lists the others."""
        incompatible = super()._load_model(checkpoint)
        unfilled = {*incompatible.missing_keys, *(key for key, *_ in incompatible.incorrect_shapes)}
        refuse_what_does_not_fit(self.model.state_dict(), unfilled, incompatible.unexpected_keys)
        return incompatible


def read_checkpoint(path: str) -> dict:
    """The content of a .pth or .safetensors file, on the CPU. No code in it is executed.

    Args:
        path: a local path or a URL that Detectron2's PathManager supports.

    Raises:
        MissingFileError: the file does not exist.
        UserError: it cannot be downloaded, is damaged, or contains other objects than tensors and
            plain containers.
    """
    local_path = _local_file(path)
    if local_path.endswith(".pkl"):
        raise UserError(
            f"'{path}' cannot be read here: a .pkl file is a checkpoint of Detectron2's model zoo. "
            "d2-ctxseg train can start from one if Detectron2 is installed "
            "(docs/GETTING_STARTED.md). Give a .pth or .safetensors file."
        )
    try:
        if local_path.endswith(".safetensors"):
            return load_file(local_path)
        state = torch.load(local_path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen classes for a bad file
        raise UserError(
            f"'{path}' is not a checkpoint that can be read safely (a .pth file written by "
            f"torch.save with tensors and plain containers, or .safetensors): {_reason(error)}"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"'{path}' holds a {type(state).__name__}, expected a dict of weights.")
    refuse_other_names(state, path)
    return state


def peek_checkpoint(path: str) -> dict:
    """The content of a .pth file; its tensors are read from the disk when they are used.

    Args:
        path: a local path.

    Raises:
        UserError: the file is damaged or is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises half a dozen classes for a bad file
        raise UserError(f"The checkpoint '{path}' cannot be read: {_reason(error)}") from error
    if not isinstance(state, dict):
        raise UserError(f"'{path}' holds a {type(state).__name__}, expected a dict of weights.")
    return state


def _local_file(path: str) -> str:
    """The local path of a checkpoint; a URL is downloaded if needed."""
    try:
        local_path = PathManager.get_local_path(path)
    except Exception as error:  # the handlers of different URL schemes raise different classes
        raise UserError(f"The weights '{path}' could not be downloaded: {error}") from error
    if os.path.isdir(local_path):
        raise UserError(f"'{path}' is a folder, expected a checkpoint: name a file in it.")
    if not os.path.isfile(local_path):
        raise MissingFileError(
            f"No weights at '{path}': '{os.path.abspath(local_path)}' does not exist."
        )
    return local_path


def _reason(error: Exception) -> str:
    """The reason why torch.load failed, without torch's advice to load the file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        classes = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        if classes:
            return f"it holds objects of {', '.join(classes)}, which could run code."
        return "it has another format."
    return str(error).strip().partition("\n")[0] or type(error).__name__


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The weights in a checkpoint: its entry "model" or "state_dict", or the whole content.

    Raises:
        MissingFileError, UserError: see :func:`read_checkpoint`.
    """
    state = read_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), dict):
            return state[key]
    return state


def load_weights(model: nn.Module, path: str) -> None:
    """Load the whole model from a checkpoint, for evaluation and inference.

    If the checkpoint was stripped of the modules that only training needs, the model is stripped
    as well.

    Raises:
        UserError: ``path`` is "", weights are missing, unexpected or of another shape (the message
            lists them), or they hold NaN or infinity.
        MissingFileError: the file does not exist.
    """
    if not path:
        raise UserError(
            "No weights given: set MODEL.WEIGHTS to a checkpoint of this config, for example "
            "output/model_final.pth."
        )
    state = read_state_dict(path)
    for name in training_only_modules(model):
        if not any(key.startswith(f"{name}.") for key in state):
            _remove(model, name)
    differences = describe_differences(state, model.state_dict())
    if differences:
        raise UserError(
            f"The weights in '{path}' do not fit the model of this config. {differences}"
        )
    refuse_not_finite(state, path)
    model.load_state_dict(state)
    logger.info("Loaded weights from %s", path)


def strip_training_only(model: nn.Module) -> list[str]:
    """Remove the modules that only training needs: auxiliary heads, a classifier's oracle.

    Predictions do not change. The model can no longer be trained, nor loaded from a complete
    checkpoint.

    Returns:
        The names of the removed submodules.
    """
    names = training_only_modules(model)
    for name in names:
        _remove(model, name)
    return names


def training_only_modules(model: nn.Module) -> list[str]:
    """Names of the submodules that the modules of ``model`` list as ``training_only``."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "training_only", ())
        if getattr(module, name) is not None
    ]


def _remove(model: nn.Module, name: str) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, None)


def _numbered(folder: str) -> list[str]:
    """The paths of a training's checkpoints: ``model_0001999.pth``, ``model_best.pth``, ..."""
    paths = sorted(glob.glob(os.path.join(glob.escape(folder), "model_*.pth")))
    return [path for path in paths if not path.endswith("_ema.pth")]


def _named_last(folder: str) -> str:
    """The file that ``last_checkpoint`` names; "" if there is none or it cannot be read."""
    path = os.path.join(folder, LAST_FILE)
    if os.path.isdir(path):
        raise UserError(
            f"'{path}' is a folder, expected a file with the name of a checkpoint. Delete it."
        )
    try:
        with open(path, encoding="utf-8") as file:
            name = file.read().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return ""
    if not name or not name.isprintable():
        logger.warning("%s is empty or damaged", path)
        return ""
    if os.path.basename(name) != name:
        raise UserError(
            f"'{path}' names '{name}', which is not in that folder. Write the name of a checkpoint "
            "in that folder to it, or delete it to resume from the latest checkpoint."
        )
    return os.path.join(folder, name)


def _problem_of(path: str) -> str | None:
    """The reason why a run cannot resume from a file, or None. The whole file is read."""
    if not os.path.isfile(path):
        return "is missing"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            peek_checkpoint(path)
    except UserError as error:
        return f"is not a checkpoint: {error}"
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
        return f"is incomplete: {error}"
    return None if damaged is None else f"is damaged in '{damaged}'"


def _iteration_of(path: str) -> tuple[int, float]:
    """A checkpoint's iteration (-1 if it is damaged) and the time of its last modification."""
    try:
        iteration = peek_checkpoint(path).get("iteration", -1)
    except UserError:
        iteration = -1
    return (iteration if isinstance(iteration, int) else -1), os.path.getmtime(path)
