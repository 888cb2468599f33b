"""This project's configs by name, in a clone and in an installed package."""

import os
from pathlib import Path

from ..utils.errors import MissingFileError, UserError, suggest

_PACKAGE = Path(__file__).resolve().parents[1]
# The first folder exists in a wheel (see setup.py), the second in a clone.
_PLACES = (_PACKAGE / "model_zoo" / "configs", _PACKAGE.parent / "configs")


def config_names() -> list[str]:
    """The names of all configs: their paths below ``configs/``, without ``.yaml``."""
    folder = _configs_folder()
    paths = folder.rglob("*.yaml")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)


def get_config_file(name: str) -> str:
    """The absolute path of the config with this name.

    Args:
        name: a name such as "camvid/fpn_resnet18_linear", with or without ".yaml"; for
            LazyConfig one with ".py", "lazy/context_shapes.py".

    Raises:
        UserError: there is no such config; the message has the nearest name.
    """
    folder = _configs_folder()
    lazy = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.py"))]
    if name in lazy:
        return str(folder / name)
    known = [*config_names(), *lazy]
    stem = name.removesuffix(".yaml")
    if stem not in known:
        raise UserError(
            f"No config of this project is called '{name}'.{suggest(stem, known)} A name is a path "
            "below configs/, such as 'camvid/fpn_resnet18_linear'."
        )
    return str(folder / f"{stem}.yaml")


def find_config_file(path_or_name: str) -> str:
    """The path of a config file, from its path or the name of a config of this project.

    The name may begin with "configs/".

    Raises:
        MissingFileError: there is neither such a file nor such a config.
    """
    if os.path.lexists(path_or_name):  # the reader checks whether it is a file
        return path_or_name
    known = config_names()
    # As in a clone, where the commands of the documentation are pasted into any folder.
    name = path_or_name.removeprefix("configs/")
    if name.removesuffix(".yaml") in known:
        return get_config_file(name)
    raise MissingFileError(
        f"--config-file: no file '{os.path.abspath(path_or_name)}', and no config of this project "
        f"has that name.{suggest(path_or_name, known)}"
    )


def _configs_folder() -> Path:
    for folder in _PLACES:
        if folder.is_dir():
            return folder
    raise MissingFileError(
        f"The configs of this project are missing: neither '{_PLACES[0]}' nor '{_PLACES[1]}' is a "
        "folder. Install the package again."
    )
