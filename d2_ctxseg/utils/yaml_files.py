"""Safe reading of YAML files that users write, with one message per error."""

import itertools
import os
from pathlib import Path

import yaml

from .errors import MissingFileError, UserError

_MERGE_TAG = "tag:yaml.org,2002:merge"
# Deeper nesting exceeds the recursion limit or the stack of the loader.
_MAX_DEPTH = 100
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_SafeLoader):
    """The safe loader that also rejects duplicate keys."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if (type(key), str(key)) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key: {key}", problem_mark=key_node.start_mark
                )
            seen.add((type(key), str(key)))
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike) -> object:
    """The content of a YAML file; None if it is empty. No code in it is executed.

    Raises:
        MissingFileError: the file does not exist.
        UserError: the path is a folder, or the file cannot be opened, is not UTF-8, is not valid
            YAML, has a duplicate key, is nested too deeply or contains itself.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(f"'{path}': no such file.") from error
    except OSError as error:
        raise UserError(f"'{path}' {_why_not_opened(path, error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{path}' is not UTF-8 text (byte {error.start}): is it a YAML file? If so, save it "
            "again with the encoding UTF-8."
        ) from error
    try:
        if _is_too_deep(text):
            raise UserError(f"'{path}' is nested more than {_MAX_DEPTH} levels deep.")
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"'{path}' is not valid YAML: {_problem(error, text)}") from error
    if _contains_itself(content):
        raise UserError(f"'{path}': an anchor (&) contains itself through its alias (*).")
    return content


def _is_too_deep(text: str) -> bool:
    """Whether lists and mappings are nested more than ``_MAX_DEPTH`` levels deep."""
    steps = {yaml.SequenceStartEvent: 1, yaml.MappingStartEvent: 1}
    steps |= {yaml.SequenceEndEvent: -1, yaml.MappingEndEvent: -1}
    events = yaml.parse(text, Loader=_SafeLoader)
    levels = itertools.accumulate(steps.get(type(event), 0) for event in events)
    return any(level > _MAX_DEPTH for level in levels)


def kind_of(content: object) -> str:
    """The type of YAML content in words: "a list", "a text", "a number", ..."""
    if content is None:
        return "empty"
    kinds = {bool: "true or false", str: "a text", dict: "a mapping", list: "a list"}
    return kinds.get(type(content), "a number" if isinstance(content, int | float) else "a date")


def _why_not_opened(path: str | os.PathLike, error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected a YAML file."
    if os.path.islink(path) and not os.path.exists(path):
        return "is a link to itself."
    return f"cannot be read: {error.strerror}."


def _problem(error: yaml.YAMLError, text: str) -> str:
    """The error and its position, counted from 1."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{problem}."
    context = getattr(error, "context", None)
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    indentation = line[: len(line) - len(line.lstrip())]
    tab = " The line has a tab; indent YAML with spaces." if "\t" in indentation else ""
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return f"{f'{context}: ' if context else ''}{problem} ({where}).{tab}"


def _contains_itself(content: object) -> bool:
    """Whether a list or mapping contains itself. Each one is visited once."""
    done: set[int] = set()

    def leads_back(item: object, outer: frozenset[int]) -> bool:
        if not isinstance(item, dict | list) or id(item) in done:
            return False
        if id(item) in outer:
            return True
        inner = item.values() if isinstance(item, dict) else item
        found = any(leads_back(value, outer | {id(item)}) for value in inner)
        done.add(id(item))
        return found

    return leads_back(content, frozenset())
