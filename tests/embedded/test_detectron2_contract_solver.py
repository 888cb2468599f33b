"""What this project relies on in Detectron2's optimizers and schedules, on either runtime."""

import math

import pytest
import torch
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn

from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config, build_lr_scheduler
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import LRMultiplier, LRScheduler, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_common_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups

# Detectron2's learning rates at iterations 0 to 11 of 12, to the last bit.
# fmt: off
MULTI_STEP = [
    0.010000000000000002, 0.04000000000000001, 0.06999999999999999, 0.1, 0.1, 0.1,
    0.010000000000000002, 0.010000000000000002, 0.010000000000000002, 0.0010000000000000002,
    0.0010000000000000002, 0.0010000000000000002,
]
RATES = [
    (["WarmupMultiStepLR"], MULTI_STEP),
    (["WarmupMultiStepLR", "SOLVER.WARMUP_METHOD", "constant"],
     [0.010000000000000002] * 3 + MULTI_STEP[3:]),
    (["WarmupMultiStepLR", "SOLVER.WARMUP_ITERS", 0], [0.1] * 3 + MULTI_STEP[3:]),
    (["WarmupCosineLR"], [
        0.010000000000000002, 0.03560660171779822, 0.06121320343559642, 0.08681980515339464,
        0.07750000000000001, 0.06664685702961344, 0.05500000000000001, 0.04335314297038656,
        0.032500000000000015, 0.023180194846605363, 0.016028856829700257, 0.01153333781699193,
    ]),
    (["WarmupCosineLR", "SOLVER.RESCALE_INTERVAL", True], [
        0.010000000000000002, 0.04000000000000001, 0.06999999999999999, 0.1,
        0.09728616793536587, 0.08947199994035401, 0.07750000000000001, 0.06281416799501187,
        0.047185832004988146, 0.032500000000000015, 0.020528000059645998, 0.012713832064634126,
    ]),
    (["WarmupStepWithFixedGammaLR"], [
        0.010000000000000002, 0.04000000000000001, 0.06999999999999999, 0.1,
        0.010000000000000002, 0.010000000000000002, 0.010000000000000002, 0.010000000000000002,
        0.0010000000000000002, 0.0010000000000000002, 0.0010000000000000002,
        0.0010000000000000002,
    ]),
    (["WarmupPolyLR"], [
        0.010000000000000002, 0.03698710042978139, 0.05940663027524307, 0.07718895067235705,
        0.0694253162661607, 0.06156375689723185, 0.05358867312681466, 0.04547889273407904,
        0.03720410580113015, 0.028717458874925873, 0.01993718664752192, 0.010684073783223468,
    ]),
    (["WarmupPolyLR", "SOLVER.POLY_LR_CONSTANT_ENDING", 0.3], [
        0.010000000000000002, 0.03698710042978139, 0.05940663027524307, 0.07718895067235705,
        0.0694253162661607, 0.06156375689723185, 0.05358867312681466, 0.04547889273407904,
        0.03720410580113015, 0.03, 0.03, 0.03,
    ]),
]
# fmt: on


def solver_cfg(*options):
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.BASE_LR_END = 0.01
    cfg.SOLVER.MAX_ITER = 12
    cfg.SOLVER.STEPS = (6, 9)
    cfg.SOLVER.NUM_DECAYS = 2
    cfg.SOLVER.WARMUP_ITERS = 3
    cfg.SOLVER.WARMUP_FACTOR = 0.1
    cfg.merge_from_list(list(options))
    return cfg


def sgd(lr=0.1):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def rates(optimizer, scheduler, iterations=12):
    """The learning rate at each iteration of a training."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    seen = []
    for iteration in range(iterations):
        seen.append(optimizer.param_groups[0]["lr"])
        if iteration < iterations - 1:
            optimizer.step()
            scheduler.step()
    return seen


class TestSchedules:
    @pytest.mark.parametrize(("options", "expected"), RATES, ids=lambda value: str(value)[:70])
    def test_rates_are_detectron2s(self, options, expected):
        cfg = solver_cfg("SOLVER.LR_SCHEDULER_NAME", *options)
        optimizer = sgd()
        scheduler = build_lr_scheduler(cfg, optimizer)
        assert isinstance(scheduler, LRScheduler)
        assert rates(optimizer, scheduler) == expected

    def test_poly_follows_its_formula_to_the_end(self):
        optimizer = sgd(lr=0.02)
        scheduler = WarmupPolyLR(optimizer, 1000, warmup_factor=0.01, warmup_iters=100, power=0.9)
        expected = []
        for iteration in range(1001):
            done = iteration / 100
            warmup = 1.0 if iteration >= 100 else 0.01 * (1 - done) + done
            expected.append(0.02 * warmup * math.pow(1.0 - iteration / 1000, 0.9))
        assert rates(optimizer, scheduler, 1001) == expected
        assert expected[-1] == 0.0

    def test_steps_beyond_the_end_are_ignored(self):
        cfg = solver_cfg("SOLVER.STEPS", (6, 9, 99))
        optimizer = sgd()
        assert rates(optimizer, build_common_lr_scheduler(cfg, optimizer)) == MULTI_STEP

    def test_unknown_name_is_an_error(self):
        with pytest.raises(ValueError, match="Unknown LR scheduler: WarmupMagicLR"):
            build_lr_scheduler(solver_cfg("SOLVER.LR_SCHEDULER_NAME", "WarmupMagicLR"), sgd())

    def test_poly_is_unknown_outside_the_deeplab_project(self):
        with pytest.raises(ValueError, match="Unknown LR scheduler: WarmupPolyLR"):
            cfg = solver_cfg("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR")
            build_common_lr_scheduler(cfg, sgd())

    def test_unknown_warmup_is_an_error(self):
        with pytest.raises(ValueError, match="Unknown warmup method: slow"):
            build_lr_scheduler(solver_cfg("SOLVER.WARMUP_METHOD", "slow"), sgd())

    def test_all_groups_are_multiplied_by_the_same_factor(self):
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
        optimizer = torch.optim.SGD(groups)
        schedule = WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), 0.5, 0.0)
        scheduler = LRMultiplier(optimizer, schedule, max_iter=4)
        optimizer.step()
        scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.75, 0.1 * 0.75]

    def test_multiplier_must_be_a_schedule_of_fvcore(self):
        with pytest.raises(ValueError, match="ParamScheduler"):
            LRMultiplier(sgd(), lambda where: 1.0, max_iter=10)

    def test_state_is_base_rates_and_iteration_and_resumes(self):
        optimizer = sgd()
        scheduler = build_lr_scheduler(solver_cfg(), optimizer)
        rates(optimizer, scheduler, 6)
        assert scheduler.state_dict() == {"base_lrs": [0.1], "last_epoch": 5}

        resumed = build_lr_scheduler(solver_cfg(), sgd())
        resumed.load_state_dict(scheduler.state_dict())
        resumed.optimizer.step()
        resumed.step()
        assert resumed.get_last_lr() == [MULTI_STEP[6]]


class TestParameterGroups:
    def test_groups_with_equal_options_are_merged_and_later_options_win(self):
        a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        groups = reduce_param_groups(
            [
                {"params": [a, b], "lr": 1.0},
                {"params": [c], "lr": 2.0},
                {"params": [b], "lr": 2.0},
            ]
        )
        assert [(group["lr"], [id(p) for p in group["params"]]) for group in groups] == [
            (1.0, [id(a)]),
            (2.0, [id(b), id(c)]),
        ]


def step_with_gradients(optimizer_class, gradients, **clipping):
    """How far each parameter moves in one step with rate 1 and the given gradients."""
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.update(clipping)
    parameters = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = torch.tensor(gradient)
    maybe_add_gradient_clipping(cfg, optimizer_class)(parameters, lr=1.0).step()
    return torch.stack(parameters).detach()


class TestGradientClipping:
    def test_off_by_default(self):
        assert maybe_add_gradient_clipping(get_cfg(), torch.optim.SGD) is torch.optim.SGD

    def test_value_clips_each_element(self):
        moved = step_with_gradients(torch.optim.SGD, [[3.0, -4.0], [0.5, 0.0]], CLIP_VALUE=1.0)
        assert moved.tolist() == [[-1.0, 1.0], [-0.5, 0.0]]

    def test_norm_clips_each_parameter_by_itself(self):
        gradients = [[3.0, -4.0], [0.3, 0.4]]
        moved = step_with_gradients(torch.optim.SGD, gradients, CLIP_TYPE="norm", CLIP_VALUE=1.0)
        expected = torch.tensor([[-0.6, 0.8], [-0.3, -0.4]])
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)

    def test_infinite_norm(self):
        moved = step_with_gradients(
            torch.optim.SGD, [[3.0, -4.0]], CLIP_TYPE="norm", CLIP_VALUE=1.0, NORM_TYPE=math.inf
        )
        torch.testing.assert_close(moved, torch.tensor([[-0.75, 1.0]]), rtol=0, atol=1e-5)

    def test_works_with_adamw(self):
        cfg = get_cfg()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        clipping = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.tensor([100.0])
        optimizer = clipping([parameter], lr=1.0)
        optimizer.step()
        assert isinstance(optimizer, torch.optim.AdamW)
        # Adam keeps (1 - 0.9) times the gradient that it was given.
        assert optimizer.state[parameter]["exp_avg"].item() == pytest.approx(0.1)

    def test_a_schedule_drives_a_clipping_optimizer(self):
        cfg = solver_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", True)
        clipping = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        assert clipping.__name__ == "SGDWithGradientClip"
        optimizer = clipping([nn.Parameter(torch.zeros(1))], lr=0.1)
        assert rates(optimizer, build_lr_scheduler(cfg, optimizer)) == MULTI_STEP

    def test_unknown_type_is_an_error(self):
        with pytest.raises(ValueError, match="sideways"):
            step_with_gradients(torch.optim.SGD, [[1.0, 1.0]], CLIP_TYPE="sideways")
