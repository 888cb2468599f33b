"""Every wrong input of bad_inputs.yaml ends with its message and exit code, without a traceback."""

import pytest
from bad_input_files import import_libraries, make_shared_files
from bad_inputs import ROOT, judge, prepare_case, read_cases, run_case

from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.errors import UserError

CASES = read_cases()


def _parameters(cases, is_slow):
    return [
        pytest.param(
            case,
            marks=[pytest.mark.slow] if is_slow(case) else [],
            id=f"{case.group}: {case.name}",
        )
        for case in cases
    ]


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The folder of what many cases read."""
    import_libraries(ROOT)
    return make_shared_files(tmp_path_factory.mktemp("bad_inputs") / "shared")


@pytest.mark.parametrize("case", _parameters(CASES, lambda case: case.slow or case.early))
def test_a_program_answers_a_wrong_input(case, shared, tmp_path):
    case = prepare_case(case, tmp_path, shared)
    ending = run_case(case, tmp_path, shared)
    outcome, why = judge(case, ending)
    assert outcome == "clear", f"{outcome}: {why}\n{ending.stdout}\n{ending.stderr}"


@pytest.mark.parametrize(
    "case", _parameters([case for case in CASES if case.early], lambda case: case.slow)
)
def test_a_wrong_value_is_reported_before_anything_is_built(case, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "datasets"))
    case = prepare_case(case, tmp_path, shared)
    option, config_file, *opts = case.words
    assert option == "--config-file"
    with pytest.raises(UserError) as error:
        setup_config(config_file, opts)
    assert [words for words in case.says if words not in str(error.value)] == []


def test_every_case_has_a_name_of_its_own():
    names = [(case.group, case.name) for case in CASES]
    assert len(set(names)) == len(names)
