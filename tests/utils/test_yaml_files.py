"""Valid YAML files that are read; tests/torture/bad_inputs.yaml has invalid ones."""

import pytest

from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.yaml_files import read_yaml


def write(tmp_path, text: str):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5]\n", {"a": 1, "b": ["x", 2.5]}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}\n", {"a": {"k": 1}, "b": {"k": 1, "l": 2}}),
        ("a: &x {k: 1}\nb: {<<: *x, k: 2}\n", {"a": {"k": 1}, "b": {"k": 2}}),
        ("a: &x [1]\nb: [*x, *x]\n", {"a": [1], "b": [[1], [1]]}),
        ("1: a\n'1': b\n", {1: "a", "1": "b"}),
        ("ä: ß\n", {"ä": "ß"}),
    ],
)
def test_what_yaml_says_is_read(tmp_path, text, content):
    assert read_yaml(write(tmp_path, text)) == content


def test_many_levels_are_refused_rather_than_end_the_process(tmp_path):
    assert read_yaml(write(tmp_path, "[" * 90 + "]" * 90))
    for opening, closing in (("[", "]"), ("{a: ", "}"), ("- ", "x")):
        text = opening * 5_000 + (closing if closing == "x" else closing * 5_000)
        with pytest.raises(UserError, match="more than 100 levels deep"):
            read_yaml(write(tmp_path, text))


def test_an_alias_of_an_alias_of_an_alias_takes_no_time(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    # In full it has 9 ** 30 items.
    assert len(read_yaml(write(tmp_path, "\n".join(lines)))) == 30
