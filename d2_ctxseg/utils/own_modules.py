"""Import the user's own Python modules, given by a file's path or by name."""

import importlib
import importlib.util
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from .errors import MissingFileError, UserError

_SUFFIX = ".py"


def import_own_modules(places: Iterable[str]) -> None:
    """Import modules in the given order, so that a config can name what they register.

    A file ``my_heads.py`` becomes the module ``my_heads``. Its folder is appended to ``sys.path``,
    so that it can import modules beside it. A module that is already imported is not imported
    again.

    Args:
        places: paths that end in ".py", or names of importable modules, such as
            "my_package.heads".

    Raises:
        MissingFileError: the file or module does not exist.
        UserError: the import fails (the message names file and line), or another module has the
            same name.
    """
    for place in places:
        if is_file_name(place):
            _import_file(Path(place))
        else:
            _import_name(place)


def is_file_name(place: str) -> bool:
    """Whether one of IMPORTS is a path rather than the name of a module."""
    return place.endswith(_SUFFIX) or not all(map(str.isidentifier, place.split(".")))


def copy_own_modules(places: Sequence[str], folder: str | os.PathLike) -> None:
    """Copy the files among ``places`` into ``folder``, which is created if needed."""
    for path in map(Path, filter(is_file_name, places)):
        target = Path(folder) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(path)):
            shutil.copyfile(path, target)


def _import_file(path: Path) -> None:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise MissingFileError(f"IMPORTS: '{path}' {found}, expected a Python file.")
    name = path.stem
    if not name.isidentifier() or path.suffix != _SUFFIX:
        raise UserError(
            f"IMPORTS: '{path.name}' cannot be imported: the name of a module file consists of "
            f"letters, digits and underscores, and ends in {_SUFFIX}."
        )
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    there = getattr(sys.modules.get(name), "__file__", None) or getattr(spec, "origin", None)
    if name in sys.modules and _is_copy(there, path):
        return
    if (name in sys.modules or spec) and not _is_copy(there, path):
        raise UserError(
            f"IMPORTS: '{path}' cannot be imported as '{name}', because another module has that "
            f"name ({there or 'built into Python'}). Rename the file."
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(f"'{path}'", error, str(path)) from error


def _import_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise MissingFileError(
                f"IMPORTS: Python finds no module '{error.name}'. Give a file's path with "
                f"{_SUFFIX}, or install the module's package."
            ) from error
        raise _failed(f"the module '{name}'", error) from error
    except Exception as error:
        raise _failed(f"the module '{name}'", error) from error


def _is_copy(there: str | None, path: Path) -> bool:
    """Whether ``there`` is the file ``path`` or a copy of it, as in a run's folder."""
    if not there or not os.path.isfile(there):
        return False
    return Path(there).samefile(path) or Path(there).read_bytes() == path.read_bytes()


def _failed(what: str, error: Exception, path: str | None = None) -> UserError:
    """The error, with the last line of the user's file in its traceback."""
    if isinstance(error, SyntaxError) and error.filename:
        file, number, text = error.filename, error.lineno, error.text or ""
        message = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        frames = [f for f in frames if path is None or f.filename == path] or frames
        file, number, text = frames[-1].filename, frames[-1].lineno, frames[-1].line or ""
        message = str(error)
    return UserError(
        f"IMPORTS: importing {what} failed at line {number} of {file}: "
        f"{type(error).__name__}: {message}\n    {text.strip()}"
    )
