"""The poly schedule with a minimum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg import add_ctxseg_config
from d2_ctxseg.engine.lr_scheduler import WarmupPolyMinimumLR, build_lr_scheduler
from d2_ctxseg.utils.errors import UserError
from detectron2.config import get_cfg
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR


def make_optimizer(*rates):
    return torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=0.1
    )


def make_cfg(**solver):
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    for key, value in {"BASE_LR": 0.1, "MAX_ITER": 20, "WARMUP_ITERS": 5, **solver}.items():
        cfg.SOLVER[key] = value
    return cfg


def rates(scheduler, steps):
    result = [scheduler.get_last_lr()]
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        result.append(scheduler.get_last_lr())
    return result


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 10),
    st.floats(0.5, 2.0),
    st.floats(1e-6, 1.0),
    st.sampled_from(["linear", "constant"]),
)
def test_the_rule_is_mmsegmentations(warmup, power, factor, method):
    base, minimum, total = 0.1, 0.01, 20
    scheduler = WarmupPolyMinimumLR(
        make_optimizer(base),
        total,
        minimum=minimum,
        warmup_iters=warmup,
        warmup_factor=factor,
        warmup_method=method,
        power=power,
    )
    for step, [rate] in enumerate(rates(scheduler, total)):
        regular = (base - minimum) * (1 - step / total) ** power + minimum
        if step < warmup:
            keep = factor if method == "constant" else 1 - (1 - step / warmup) * (1 - factor)
            regular *= keep
        assert rate == pytest.approx(regular)


def test_it_ends_at_the_minimum_in_all_groups_but_those_below_it():
    scheduler = WarmupPolyMinimumLR(
        make_optimizer(0.1, 1.0, 0.001), 10, minimum=0.01, warmup_iters=0
    )
    assert rates(scheduler, 10)[-1] == pytest.approx([0.01, 0.01, 0.001])


def test_without_a_minimum_it_is_deeplabs():
    assert type(build_lr_scheduler(make_cfg(), make_optimizer(0.1))) is WarmupPolyLR


def test_a_tiny_minimum_changes_next_to_nothing():
    ours = build_lr_scheduler(make_cfg(MIN_LR=1e-12), make_optimizer(0.1))
    theirs = build_lr_scheduler(make_cfg(), make_optimizer(0.1))
    torch.testing.assert_close(rates(ours, 20), rates(theirs, 20), rtol=1e-6, atol=1e-11)


def test_it_is_resumed_where_it_was():
    first = WarmupPolyMinimumLR(make_optimizer(0.1), 20, minimum=0.01, warmup_iters=3)
    expected = rates(first, 12)
    resumed = WarmupPolyMinimumLR(make_optimizer(0.1), 20, minimum=0.01, warmup_iters=3)
    rates(resumed, 5)
    state = resumed.state_dict()
    other = WarmupPolyMinimumLR(make_optimizer(0.1), 20, minimum=0.01, warmup_iters=3)
    other.load_state_dict(state)
    assert rates(other, 7) == expected[5:]


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ({"MIN_LR": -1.0}, r"MIN_LR is -1\.0, expected a number from 0 to SOLVER\.BASE_LR"),
        ({"MIN_LR": 0.2}, r"which is 0\.1"),
        ({"MIN_LR": 0.01, "LR_SCHEDULER_NAME": "WarmupCosineLR"}, "schedule is 'WarmupCosineLR'"),
        ({"MIN_LR": 0.01, "POLY_LR_CONSTANT_ENDING": 0.1}, "POLY_LR_CONSTANT_ENDING"),
        ({"MIN_LR": 0.01, "WARMUP_METHOD": "cubic"}, "'cubic' is not one of"),
        ({"WARMUP_METHOD": "cubic"}, r"SOLVER\.WARMUP_METHOD 'cubic'"),
        ({"LR_SCHEDULER_NAME": "Poly"}, r"SOLVER\.LR_SCHEDULER_NAME 'Poly'.*'WarmupPolyLR'"),
    ],
)
def test_bad_values_are_reported(solver, message):
    with pytest.raises(UserError, match=message):
        build_lr_scheduler(make_cfg(**solver), make_optimizer(0.1))
