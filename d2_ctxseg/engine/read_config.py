"""Merges config files and overrides, with a message for every error."""

import os
from collections.abc import Iterator, Mapping, Sequence

from detectron2.config import CfgNode

from ..utils.errors import UserError, counted, shown, suggest
from ..utils.own_modules import import_own_modules, is_file_name
from ..utils.yaml_files import kind_of, read_yaml
from .config_rules import expectation_of
from .validate_config import all_keys, validate_values, value_of

_BASE = "_BASE_"
_WORDS_OF_TYPES = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def merge_config(cfg: CfgNode, config_file: str, opts: Sequence) -> None:
    """Merge a config file, its ``_BASE_`` files below it, and then overrides into ``cfg``.

    Args:
        cfg: a config with all keys at their defaults.
        config_file: path of a YAML file; "" for none.
        opts: alternating keys and values.

    The modules of IMPORTS are imported.

    Raises:
        MissingFileError: a file does not exist.
        UserError: a file is not a config, a key is unknown or a value has the wrong type; the
            message names the file and, for an unknown key, the nearest one.
    """
    if config_file:
        for path, values in read_files(config_file):
            _check_values(cfg, values, path)
        try:
            cfg.merge_from_file(config_file)
        except (KeyError, AssertionError, ValueError) as error:  # of VERSION, for one
            raise UserError(f"In {config_file}: {error.args[0]}") from error
    _check_overrides(cfg, opts)
    cfg.merge_from_list(list(opts))
    validate_values(cfg, ("IMPORTS",))
    cfg.IMPORTS = stated_imports(config_file, opts)
    import_own_modules(cfg.IMPORTS)


def stated_imports(config_file: str, opts: Sequence) -> list[str]:
    """IMPORTS of a config file and overrides, with absolute paths of files.

    A path in a config file is relative to that file, one in the overrides to the working directory.
    """
    stated, folder = [], ""
    for path, values in read_files(config_file) if config_file else ():
        if isinstance(values.get("IMPORTS"), list):
            stated, folder = values["IMPORTS"], os.path.dirname(path)
    if "IMPORTS" in opts[::2]:
        stated, folder = dict(zip(opts[::2], opts[1::2]))["IMPORTS"], ""
        stated = CfgNode._decode_cfg_value(stated)
    return [
        os.path.abspath(os.path.join(folder, os.path.expanduser(place)))
        if is_file_name(place)
        else place
        for place in stated
    ]


def read_files(config_file: str) -> Iterator[tuple[str, dict]]:
    """(path, values) of a config file and all its bases, the file itself last.

    Bases on the network are left out.

    Raises:
        MissingFileError, UserError: as :func:`merge_config`.
    """
    yield from _read_chain(config_file, ())


def _read_chain(path: str, named_by: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    for number, other in enumerate(named_by):
        if os.path.exists(path) and os.path.samefile(path, other):
            raise UserError(
                f"{_BASE} goes in a circle: {' -> '.join((*named_by[number:], path))}. A config "
                "cannot be its own base: take one of these lines out."
            )
    where = f"{_BASE} of '{named_by[-1]}': " if named_by else ""
    try:
        values = read_yaml(path)
    except UserError as error:
        raise type(error)(f"{where}{error}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{where}'{path}' is {kind_of(values)}, expected a config: sections and keys, such as "
            "MODEL: {DEVICE: cpu}."
        )
    bases = values.pop(_BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base:
            raise UserError(
                f"'{path}': {_BASE} is {shown(bases)}, expected the path of a config file, or a "
                "list of them."
            )
        if "://" not in base:
            base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
            yield from _read_chain(base_path, (*named_by, path))
    yield path, values


def _check_values(cfg: CfgNode, values: Mapping, path: str, section: str = "") -> None:
    """Refuse unknown keys and wrong types in ``values``, which belong to a section of ``cfg``."""
    for name, value in values.items():
        key = f"{section}{name}"
        known = value_of(cfg, section.rstrip(".")) if section else cfg
        if not isinstance(name, str) or name not in known:
            if key not in _not_covered():
                raise UserError(_unknown_key(cfg, key, f"In {path}"))
        elif isinstance(known[name], CfgNode) and isinstance(value, dict):
            _check_values(cfg, value, path, f"{key}.")
        else:
            _check_type(key, value, known[name], f"In {path}")


def _check_overrides(cfg: CfgNode, opts: Sequence) -> None:
    options = [word for word in opts[::2] if str(word).startswith("--")]
    if options:
        raise UserError(
            f"'{options[0]}' is among the overrides: put options before the first KEY VALUE pair."
        )
    if len(opts) % 2:
        raise UserError(
            "Overrides must be KEY VALUE KEY VALUE ..., an even number of words, but are "
            f"{counted(len(opts), 'word')}: {' '.join(map(str, opts))}"
        )
    known = set(all_keys(cfg))
    for key, value in zip(opts[::2], opts[1::2]):
        if key not in known:
            raise UserError(_unknown_key(cfg, key, "In the overrides"))
        _check_type(key, value, value_of(cfg, key), "In the overrides")


def _unknown_key(cfg: CfgNode, key: str, where: str) -> str:
    return f"{where}: there is no config key '{key}'.{suggest(key, all_keys(cfg))}"


def _check_type(key: str, value: object, default: object, where: str) -> None:
    """Refuse types that yacs would not merge; it accepts lists for tuples, and None for all."""
    value = CfgNode._decode_cfg_value(value)
    if isinstance(default, CfgNode):
        raise UserError(
            f"{where}: {key} is {kind_of(value)}, expected a section: its keys "
            f"({', '.join(list(default)[:3])}, ...) with a value each."
        )
    is_same = type(value) is type(default) or {type(value), type(default)} <= {list, tuple}
    if is_same or value is None or (default is None and not isinstance(value, dict)):
        return
    expectation = expectation_of(key)
    words = expectation.words if expectation else _WORDS_OF_TYPES.get(type(default), "a value")
    raise UserError(f"{where}: {key} is {shown(value)}, expected {words}.{_hint(value, default)}")


def _hint(value: object, default: object) -> str:
    if isinstance(default, float) and type(value) is int:
        return f" Detectron2's configs need a decimal point here: write {value}.0."
    if isinstance(default, list | tuple) and isinstance(value, str):
        return f" Write a list: ['{value}']."
    if isinstance(default, list | tuple) and not isinstance(value, dict):
        return f" Write a list: [{value}]."
    if isinstance(default, str) and not isinstance(value, str | dict):
        return f" Put it in quotes: \"'{value}'\"."
    return ""


def _not_covered() -> Sequence[str]:
    """Keys of Detectron2 that the embedded runtime leaves out of a file, with a warning."""
    try:
        from detectron2.config.defaults import NOT_COVERED
    except ImportError:  # Detectron2 itself
        return ()
    return NOT_COVERED
