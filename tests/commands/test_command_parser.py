"""The parser of all commands: model options, overrides, unknown options."""

import pytest

from d2_ctxseg.commands.command_parser import _KEY, CommandParser
from d2_ctxseg.engine.validate_config import all_keys, default_config, value_of
from detectron2.config import CfgNode


@pytest.fixture
def parser():
    """Of a command with a model, a list and a flag."""
    parser = CommandParser("Do something.")
    parser.add_model()
    parser.add_argument("--input", nargs="+", default=[])
    parser.add_argument("--output")
    parser.add_argument("--json", action="store_true")
    return parser


def parse(parser, text):
    return parser.parse_args(text.split())


def test_every_config_key_begins_the_overrides():
    cfg = default_config()
    keys = [key for key in all_keys(cfg) if not isinstance(value_of(cfg, key), CfgNode)]
    assert len(keys) > 100 and [key for key in keys if not _KEY.fullmatch(key)] == []


@pytest.mark.parametrize(
    "end",
    [
        "MODEL.DEVICE cpu SEED 3",
        "--opts MODEL.DEVICE cpu SEED 3",
        "MODEL.DEVICE cpu --opts SEED 3",
    ],
)
@pytest.mark.parametrize(
    "middle",
    ["", "--input a.png b.png", "--json", "--output out --input a.png", "--json --output o"],
)
def test_overrides_come_last_with_or_without_opts(parser, middle, end):
    arguments = parse(parser, f"--config-file c.yaml {middle} {end}")
    assert arguments.opts == ["MODEL.DEVICE", "cpu", "SEED", "3"]
    assert arguments.input in ([], ["a.png"], ["a.png", "b.png"])


def test_overrides_end_a_list_of_positional_arguments():
    parser = CommandParser("Do something.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    arguments = parse(parser, "a --json b SEED 3")
    assert (arguments.names, arguments.json, arguments.opts) == (["a", "b"], True, ["SEED", "3"])


def test_the_value_of_an_option_is_no_override(parser):
    arguments = parse(parser, "--run runs --output TEST.PNG SEED 3")
    assert (arguments.output, arguments.opts) == ("TEST.PNG", ["SEED", "3"])


def test_a_file_that_looks_like_a_key_is_a_file(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEST.PNG").touch()
    arguments = parse(parser, "--run runs --input TEST.PNG TEST.OTHER 1")
    assert (arguments.input, arguments.opts) == (["TEST.PNG"], ["TEST.OTHER", "1"])


def test_what_looks_like_no_key_is_left_to_the_config(parser):
    assert parse(parser, "--run runs --json SOLVR.BASE_LR 1").opts == ["SOLVR.BASE_LR", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--run a --inptu b", "unrecognized arguments: --inptu. Did you mean '--input'?"),
        ("--wieghts=b", "unrecognized arguments: --wieghts. Did you mean '--weights'?"),
        ("--run a --xyzzy", "unrecognized arguments: --xyzzy."),
        ("--json", "one of the arguments --config-file --run --model is required"),
        ("--run a --config-file b", "not allowed with argument"),
    ],
)
def test_errors_are_reported(parser, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        parse(parser, words)
    assert message in capsys.readouterr().err


def test_a_command_without_config_takes_no_overrides(capsys):
    parser = CommandParser("Do something.", has_config=False)
    parser.add_runs("a run")
    assert "KEY VALUE" not in parser.format_help()
    assert parse(parser, "a SEED").runs == ["a", "SEED"]
    assert parse(parser, "--run a b").runs == ["a", "b"]
    with pytest.raises(SystemExit):
        parse(parser, "")
    assert "RUN, the folder of a run" in capsys.readouterr().err


def test_a_folder_without_its_option_suggests_run(parser, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([str(tmp_path), "--json"])
    assert f"'{tmp_path}' is a folder: did you mean --run {tmp_path}?" in capsys.readouterr().err


def test_a_folder_is_fine_where_a_command_takes_one(tmp_path):
    parser = CommandParser("Report.", has_config=False)
    parser.add_runs("folders")
    assert parser.parse_args([str(tmp_path)]).runs == [str(tmp_path)]


def test_usage_shows_the_overrides(parser):
    assert parser.format_usage().endswith("[--json] [KEY VALUE ...]\n")
    assert parser.format_help().count("[KEY VALUE ...]") == 1
