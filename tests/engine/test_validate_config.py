"""Valid values that the checks of a config accept; torture/bad_inputs.yaml has invalid ones."""

from pathlib import Path

import pytest

from d2_ctxseg.config import _add_pointrend_config, add_ctxseg_config
from d2_ctxseg.engine import setup_config
from d2_ctxseg.engine.config_files import config_names
from d2_ctxseg.engine.config_rules import RULE_GROUPS, expectation_of
from d2_ctxseg.engine.expectations import choice, integer, number, optional, several
from d2_ctxseg.engine.validate_config import all_keys, default_config, value_of
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

# Others describe a dataset or a part of a model, and are bases of those.
WHOLE = [name for name in config_names() if not Path(name).name.startswith("Base-")]
WHOLE = [name for name in WHOLE if not name.startswith("models/")]


@pytest.mark.parametrize("for_inference", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_every_config_of_this_project_passes(name, for_inference):
    if name.startswith("upstream/") and is_embedded():
        pytest.skip("needs Detectron2's own backbones")
    setup_config(name, [], for_inference=for_inference)


def keys_of_this_project() -> list[str]:
    theirs = get_cfg()
    _add_pointrend_config(theirs)
    add_deeplab_config(theirs)
    ours = get_cfg()
    add_ctxseg_config(ours)
    known = set(all_keys(theirs))
    return [key for key in all_keys(ours) if key not in known]


def test_every_key_of_this_project_has_an_expectation_or_is_a_switch():
    # Registered names are looked up.
    keys = set(keys_of_this_project()) - {"MODEL.CLASSIFIER.NAME"}
    values = {key: value_of(default_config(), key) for key in keys}
    unchecked = [
        key
        for key, value in values.items()
        if not isinstance(value, (CfgNode, bool)) and expectation_of(key) is None
    ]
    assert unchecked == []


def test_every_expectation_is_of_a_key_and_met_by_its_default():
    defaults = default_config()
    names = set(all_keys(defaults))
    for group in RULE_GROUPS:
        counts = group.when(defaults)
        for key, expectation in group.rules.items():
            assert key in names
            assert not counts or expectation.problem(key, value_of(defaults, key)) is None


def test_several_problems_are_named_together_and_none_twice(tiny_run):
    opts = ["SOLVER.MAX_ITER", 0, "SOLVER.BASE_LR", -1.0, "MODEL.PIXEL_STD", [0.0] * 3]
    with pytest.raises(ValueError) as error:
        setup_config(str(tiny_run), opts)
    for key in opts[::2]:
        assert str(error.value).count(key) == 1


@pytest.mark.parametrize(
    ("expectation", "good", "bad"),
    [
        (integer(1), [1, 10**9], [0, -1, 1.0, True, "1", None]),
        (integer(None, 5), [-7, 5], [6]),
        (number(0, 1, below=True), [0, 0.0, 0.999], [1, 1.0, -0.1, float("nan"), "0.5", False]),
        (number(0, above=True), [1e-9, 3], [0, 0.0, float("inf")]),
        (choice(["a", "b"]), ["a"], ["c", ["a"], None]),
        (optional(integer(1)), [None, 1], [0, "None"]),
        (several(integer(1)), [[1], (1, 2)], [[], [0], 1, "1", None, [1.0]]),
        (several(integer(1), length=2), [[1, 2]], [[1], [1, 2, 3]]),
    ],
)
def test_expectations(expectation, good, bad):
    assert [value for value in good if not expectation.holds(value)] == []
    assert [value for value in bad if expectation.holds(value)] == []
