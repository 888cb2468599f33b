"""Modules of the user's own: found by path or name, imported once, errors with file and line."""

import sys

import pytest

from d2_ctxseg.utils.errors import MissingFileError, UserError
from d2_ctxseg.utils.own_modules import copy_own_modules, import_own_modules


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Modules that a test imports are removed after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_becomes_a_module_that_finds_its_neighbours(tmp_path):
    write(tmp_path, "own_layers.py", "SIZE = 3")
    import_own_modules([write(tmp_path, "own_heads.py", "from own_layers import SIZE")])
    assert sys.modules["own_heads"].SIZE == 3


def test_a_module_is_found_by_its_name():
    import_own_modules(["json.tool"])
    assert "json.tool" in sys.modules


def test_it_is_imported_once_also_from_its_copy(tmp_path):
    path = write(
        tmp_path, "own_once.py", "import sys\nsys.own_count = getattr(sys, 'own_count', 0) + 1"
    )
    try:
        copy_own_modules([path, "json.tool"], tmp_path / "run" / "imports")
        assert [p.name for p in (tmp_path / "run" / "imports").iterdir()] == ["own_once.py"]
        copy_own_modules([str(tmp_path / "run/imports/own_once.py")], tmp_path / "run" / "imports")
        import_own_modules([path, path, str(tmp_path / "run" / "imports" / "own_once.py")])
        assert sys.own_count == 1
    finally:
        del sys.own_count


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import os\nx = 1 +\n", ["line 2", "SyntaxError", "x = 1 +"]),
        ("\n\nnothing()\n", ["line 3", "NameError: name 'nothing'", "\n    nothing()"]),
        ("import no_such_package\n", ["line 1", "ModuleNotFoundError", "no_such_package"]),
        ("def f():\n    raise KeyError('a')\n\nf()", ["line 2", "KeyError: 'a'"]),
        ("import json\njson.loads('{')", ["line 2", "JSONDecodeError", "json.loads('{')"]),
    ],
)
def test_an_error_in_a_module_is_shown_with_file_and_line(tmp_path, text, says):
    path = write(tmp_path, "own_wrong.py", text)
    with pytest.raises(UserError) as error:
        import_own_modules([path])
    for part in ["IMPORTS", path, *says]:
        assert part in str(error.value)
    assert "own_wrong" not in sys.modules


@pytest.mark.parametrize(
    ("place", "kind", "says"),
    [
        ("nowhere.py", MissingFileError, "nowhere.py' does not exist"),
        (".", MissingFileError, "'.' is a folder"),
        ("no_such_package.heads", MissingFileError, "finds no module 'no_such_package'"),
        ("json.no_such_module", MissingFileError, "finds no module 'json.no_such_module'"),
    ],
)
def test_what_is_not_there_is_reported(tmp_path, monkeypatch, place, kind, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=says):
        import_own_modules([place])


def test_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be imported as 'json', because another"):
        import_own_modules([write(tmp_path, "json.py", "")])
    with pytest.raises(UserError, match="cannot be imported as 'wave', because another"):
        import_own_modules([write(tmp_path, "wave.py", "")])
    with pytest.raises(UserError, match="my-heads.py' cannot be imported"):
        import_own_modules([write(tmp_path, "my-heads.py", "")])


def test_two_different_files_of_one_name_are_refused(tmp_path):
    import_own_modules([write(tmp_path / "a", "own_twice.py", "X = 1")])
    with pytest.raises(UserError, match="a/own_twice.py.*Rename"):
        import_own_modules([write(tmp_path / "b", "own_twice.py", "X = 2")])
