"""Lock OUTPUT_DIR for one training at a time, and determine the seed of a run."""

import fcntl
import logging
import os
import secrets
import socket
from pathlib import Path

import yaml

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..utils.errors import UserError
from ..utils.files import remove_unfinished, write_errors
from ..utils.own_modules import copy_own_modules, is_file_name
from .processes import on_main_process

LOCK_FILE = ".lock"
IMPORTS_FOLDER = "imports"

logger = logging.getLogger(__name__)
# Open lock files of this process; closing one releases the lock.
_locks = {}


def take_run_folder(output_dir: str, *, resume: bool) -> None:
    """Lock ``output_dir`` until this process ends; all processes of a run call this.

    Unfinished files of killed processes are deleted.

    Args:
        output_dir: the folder, which is created if needed.
        resume: whether the folder may contain checkpoints.

    Raises:
        UserError: another training uses the folder, it contains checkpoints, or it is not writable.
    """

    def take() -> None:
        _lock(Path(output_dir))
        if not resume:
            refuse_used_folder(output_dir)
        for path in remove_unfinished(output_dir):
            logger.info("Deleted %s, which a killed process had left unfinished", path)

    on_main_process(take)


def refuse_used_folder(output_dir: str) -> None:
    """Keep a new training from overwriting an earlier one.

    Raises:
        UserError: ``output_dir`` holds checkpoints.
    """
    if any(Path(output_dir).glob("model_*.pth")):
        raise UserError(
            f"OUTPUT_DIR '{output_dir}' holds the checkpoints of an earlier training. Continue it "
            "with --resume, or set another OUTPUT_DIR."
        )


def _lock(folder: Path) -> None:
    """Lock ``folder/.lock`` and write the owner to it.

    The lock ends with this process; the file remains. Processes that are forked later do not share
    the lock.
    """
    path = (folder / LOCK_FILE).resolve()
    if path in _locks and path.exists():
        return  # a second training in this process; opening and closing the file would unlock it
    with write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 -- open as long as the process
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"OUTPUT_DIR '{folder}' belongs to a training that is running: {owner}. Wait for its "
            "end, end it, or set another OUTPUT_DIR."
        ) from error
    except OSError as error:  # file systems without locks
        logger.warning("%s cannot be locked (%s): start no other training there.", path, error)
    with write_errors(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    _locks[path] = file


def settle_seed(cfg: CfgNode, *, resume: bool = False) -> None:
    """Replace a negative SEED by a random number, the same in all processes; all call this.

    Args:
        cfg: changed in place, even if it is frozen.
        resume: take the number from the config.yaml in OUTPUT_DIR, if it has one.
    """
    if cfg.SEED >= 0:
        return
    saved = saved_config(cfg.OUTPUT_DIR).get("SEED") if resume else None
    is_known = isinstance(saved, int) and saved >= 0
    seed = comm.all_gather(saved if is_known else secrets.randbelow(2**31))[0]
    set_seed(cfg, seed)
    logger.info("SEED is %d, %s", seed, "as before" if is_known else "drawn at random")


def set_seed(cfg: CfgNode, seed: int) -> None:
    """Change SEED, even if ``cfg`` is frozen."""
    is_frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.SEED = seed
    if is_frozen:
        cfg.freeze()


def saved_config(output_dir: str) -> dict:
    """The values in the config.yaml that a run has written; empty if there is none to read."""
    try:
        text = (Path(output_dir) / "config.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def place_in_run(place: str) -> str:
    """One of IMPORTS as a run's config.yaml has it: a file relative to the run's folder."""
    return f"{IMPORTS_FOLDER}/{Path(place).name}" if is_file_name(place) else place


def keep_imports(cfg: CfgNode) -> None:
    """Copy the files of IMPORTS into OUTPUT_DIR/imports; all processes call this.

    IMPORTS then has their places relative to OUTPUT_DIR, where config.yaml will be: the run's
    folder is all that its model needs, wherever it lies.
    """
    on_main_process(lambda: copy_own_modules(cfg.IMPORTS, Path(cfg.OUTPUT_DIR) / IMPORTS_FOLDER))
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.IMPORTS = [place_in_run(place) for place in cfg.IMPORTS]
    if frozen:
        cfg.freeze()
