"""Check for --resume whether the training in OUTPUT_DIR belongs to this config."""

from pathlib import Path

import torch

from detectron2.config import CfgNode

from ..checkpoint.weight_checks import describe_differences
from ..modeling.backbones.normalization import has_encoder
from ..utils.errors import UserError, shown
from ..utils.yaml_files import read_yaml
from .validate_config import default_config, value_of

# Keys whose values identify the model and the optimizer.
_NAMES = (
    "MODEL.META_ARCHITECTURE",
    "MODEL.CLASSIFIER.NAME",
    "MODEL.BACKBONE.NAME",
    "MODEL.ENCODER.NAME",
    "MODEL.SEM_SEG_HEAD.NAME",
    "MODEL.SEM_SEG_HEAD.DECODER.NAME",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "SOLVER.OPTIMIZER",
)


def refuse_other_run(cfg: CfgNode) -> None:
    """Refuse to resume a run with another model or optimizer.

    Without a config.yaml and a checkpoint in OUTPUT_DIR nothing is checked: there is no run to
    continue, and a config.yaml alone may have been cut off by a full disk.

    Raises:
        UserError: the message has each key that differs, with both values.
    """
    folder = Path(cfg.OUTPUT_DIR)
    path = folder / "config.yaml"
    if not path.exists() or not any(folder.glob("model_*.pth")):
        return
    saved = read_yaml(path)
    differences = []
    for key in _names_that_count(cfg):
        before, now = _saved_value(saved, key), value_of(cfg, key)
        if before != now:
            differences.append(f"{key} is {shown(before)} there and {shown(now)} now")
    if differences:
        raise UserError(
            f"--resume: the training in OUTPUT_DIR '{cfg.OUTPUT_DIR}' is another one: "
            f"{'; '.join(differences)}. Continue it with its own config, or set another OUTPUT_DIR."
        )


def refuse_other_state(path: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a checkpoint to resume from that is not one of this model and optimizer.

    Args:
        path: path of the checkpoint.
        model: the model, not wrapped for distributed training.
        optimizer: the optimizer of the training.

    Raises:
        UserError: the message says what differs.
    """
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    differences = describe_differences(state.get("model", {}), model.state_dict())
    advice = "Continue the training with its own config, or set another OUTPUT_DIR."
    if differences:
        raise UserError(f"--resume: '{path}' is of another model: {differences}. {advice}")
    inner = state.get("trainer", {}).get("_trainer", {})
    before = _kind_of_groups(inner.get("optimizer", optimizer.state_dict()))
    now = _kind_of_groups(optimizer.state_dict())
    if before != now:
        raise UserError(
            f"--resume: '{path}' is of another optimizer or of other parameter groups: {before} "
            f"there and {now} now. SOLVER.OPTIMIZER, MODEL.BACKBONE.FREEZE_AT and the rates and "
            f"decays of SOLVER decide. {advice}"
        )


def _names_that_count(cfg: CfgNode) -> list[str]:
    names = list(_NAMES)
    if not has_encoder(cfg):
        names.remove("MODEL.ENCODER.NAME")
    if cfg.MODEL.SEM_SEG_HEAD.NAME != "SMPDecoderHead":
        names.remove("MODEL.SEM_SEG_HEAD.DECODER.NAME")
    if cfg.MODEL.META_ARCHITECTURE != "PixelClassifierSegmentor":
        names.remove("MODEL.CLASSIFIER.NAME")
    return names


def _saved_value(saved: object, key: str) -> object:
    """The value of a key in a config.yaml; its default if the config was saved without the key."""
    for name in key.split("."):
        if not isinstance(saved, dict) or name not in saved:
            return value_of(default_config(), key)
        saved = saved[name]
    return saved


def _kind_of_groups(state: dict) -> str:
    """The name of the optimizer and the numbers of parameters of its groups."""
    groups = state["param_groups"]
    kind = "AdamW" if groups and "betas" in groups[0] else "SGD"
    return f"{kind} with {', '.join(str(len(group['params'])) for group in groups)} parameters"
