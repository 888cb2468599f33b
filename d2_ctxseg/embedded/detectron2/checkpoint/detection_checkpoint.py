"""``DetectionCheckpointer``: reads and writes the checkpoint files of Detectron2."""

import logging
import os
import pickle

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .._coverage import INSTALL_GUIDE
from ..utils import comm
from ..utils.file_io import PathManager

logger = logging.getLogger(__name__)


class DetectionCheckpointer(Checkpointer):
    """Saves and loads a model and other things with a state, such as optimizer and schedule.

    A file is what ``torch.save`` makes of ``{"model": state, "optimizer": state, ...}``. Loading
    never runs code of the file.

    Args:
        model: the model. Of a parallel one, the module inside is saved and loaded.
        save_dir: the folder of the checkpoints; must exist when something is saved. "": nothing
            is saved.
        save_to_disk: whether this process saves. By default, only the main process does.
        **checkpointables: further objects with ``state_dict()`` and ``load_state_dict()``. Their
            names are the keys in the file.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables,
    ):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._loaded_by_all_processes = isinstance(model, DistributedDataParallel)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """Load a file. With a DistributedDataParallel model, all processes call this together.

        Parameters whose name or shape does not fit are left as they are, and listed in the log.

        Args:
            path: path or http(s) address; "" loads nothing.
            checkpointables: the names of the things to load besides the model; by default all that
                are in the file.

        Returns:
            What else is in the file; ``{}`` if there is no file.

        Raises:
            AssertionError: there is no such file.
            OSError: some processes can read the file and some cannot.
            ValueError: the file is a pickle, or is not a checkpoint.
        """
        logger.info(f"[DetectionCheckpointer] Loading from {path} ...")
        if self._loaded_by_all_processes:
            self._check_same_file_everywhere(path)
        return super().load(path, checkpointables)

    def _check_same_file_everywhere(self, path: str) -> None:
        readable = bool(path) and os.path.isfile(self.path_manager.get_local_path(path))
        readable = comm.all_gather(readable)
        if any(readable) and not all(readable):
            missing = [rank for rank, is_there in enumerate(readable) if not is_there]
            raise OSError(
                f"Checkpoint '{path}' cannot be read by the processes of rank {missing}. They "
                "would start from other weights: put it on a disk that all machines share."
            )

    def _load_file(self, f: str) -> dict:
        if f.endswith((".pkl", ".pyth")):
            raise ValueError(
                f"'{f}': the embedded Detectron2 runtime does not read .pkl and .pyth files: they "
                "are pickles, and reading one runs the code in it. Load it with Detectron2 and "
                "save it as .pth (DetectionCheckpointer.save), or install Detectron2: "
                f"{INSTALL_GUIDE}"
            )
        try:
            loaded = torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"'{f}' is not a checkpoint that can be read safely: it must hold nothing but "
                f"tensors, numbers, strings, lists and dicts. {error}"
            ) from error
        # Files with nothing but weights, such as those of torchvision, have no "model".
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: dict):
        incompatible = super()._load_model(checkpoint)
        # The config gives these two; it does not matter that an old file lacks them.
        own_buffers = dict(self.model.named_buffers(recurse=False))
        from_config = {"pixel_mean", "pixel_std"} & own_buffers.keys()
        missing = [key for key in incompatible.missing_keys if key not in from_config]
        return incompatible._replace(missing_keys=missing)
