"""Steps of micro-batches, in mixed precision, with EMA, channels last, compiled."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel
from train_net_runs import run_train_net
from two_processes import run_in_two_processes

from d2_ctxseg.checkpoint import load_weights
from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.engine.ema import build_ema
from d2_ctxseg.engine.model_options import synchronize_batch_norm, use_channels_last
from d2_ctxseg.engine.train_step import MicroBatchTrainer
from d2_ctxseg.utils.errors import UserError
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage


class Model(nn.Module):
    """Losses of a linear map, without batch statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.dtypes = []

    def forward(self, batch):
        output = self.layer(batch)
        self.dtypes.append(output.dtype)
        return {"loss_a": output.square().mean(), "loss_b": output.float().mean().exp()}


def batches(count, size=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 4, generator=generator) for _ in range(count)]


def one_step(trainer_class, loader, model=None, **options):
    model = model or Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = trainer_class(model, loader, optimizer, **options)
    trainer.iter = 0
    with EventStorage() as storage:
        trainer.run_step()
        metrics = {key: value for key, (value, _) in storage.latest().items() if "loss" in key}
    return {k: v.detach().clone() for k, v in model.state_dict().items()}, metrics


class TestMicroBatchTrainer:
    def test_micro_batches_are_the_step_on_one_large_batch(self):
        micro_batches = batches(4)
        weights, metrics = one_step(MicroBatchTrainer, micro_batches, accumulation_steps=4)
        # The second loss is no mean over images, but one over micro-batches.
        expected = Model()
        optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
        losses = [expected(batch) for batch in micro_batches]
        (sum(sum(one.values()) for one in losses) / 4).backward()
        optimizer.step()
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(weights[key], value)
        for key in ("loss_a", "loss_b"):
            mean = sum(one[key] for one in losses).item() / 4
            assert metrics[key] == pytest.approx(mean)
        assert metrics["total_loss"] == pytest.approx(metrics["loss_a"] + metrics["loss_b"])

    def test_micro_batches_of_means_over_images_are_one_joined_batch(self):
        class Mean(Model):
            def forward(self, batch):
                return {"loss": super().forward(batch)["loss_a"]}

        weights, metrics = one_step(MicroBatchTrainer, batches(4), Mean(), accumulation_steps=4)
        expected, joined = one_step(SimpleTrainer, [torch.cat(batches(4))], Mean())
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value)
        assert metrics == pytest.approx(joined)

    def test_float16_takes_the_step_of_float32_up_to_rounding(self):
        weights, _ = one_step(
            MicroBatchTrainer, batches(4), accumulation_steps=4, precision=torch.float16
        )
        expected, _ = one_step(MicroBatchTrainer, batches(4), accumulation_steps=4)
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-3)

    def test_a_step_whose_gradients_overflow_is_left_out(self):
        model = Model()
        trainer = MicroBatchTrainer(
            model,
            batches(2),
            torch.optim.SGD(model.parameters(), lr=0.1),
            accumulation_steps=2,
            precision=torch.float16,
        )
        trainer.iter = 0
        before, scale = model.layer.weight.clone(), trainer.grad_scaler.get_scale()
        model.layer.weight.register_hook(lambda gradient: gradient * float("inf"))
        with EventStorage():
            trainer.run_step()
        assert torch.equal(model.layer.weight, before)
        assert trainer.grad_scaler.get_scale() == scale / 2

    def test_one_micro_batch_is_simple_trainers_step(self):
        ours = one_step(MicroBatchTrainer, batches(1))
        theirs = one_step(SimpleTrainer, batches(1))
        for key, value in theirs[0].items():
            assert torch.equal(ours[0][key], value)
        assert ours[1] == theirs[1]

    def test_bfloat16_is_computed_in(self):
        model = Model()
        weights, _ = one_step(MicroBatchTrainer, batches(1), model, precision=torch.bfloat16)
        assert model.dtypes == [torch.bfloat16]
        assert {value.dtype for value in weights.values()} == {torch.float32}
        expected, _ = one_step(SimpleTrainer, batches(1))
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=2e-3)

    def test_its_checkpoints_are_those_of_simple_trainer_and_amp_trainer(self):
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        plain = MicroBatchTrainer(model, [], optimizer)
        plain.iter = 3
        assert set(plain.state_dict()) >= {"iteration", "optimizer"}
        assert "grad_scaler" not in plain.state_dict()
        scaled = MicroBatchTrainer(model, [], optimizer, precision=torch.float16)
        scaled.iter = 3
        state = scaled.state_dict()
        assert state["grad_scaler"]["scale"] == scaled.grad_scaler.get_scale()
        state["grad_scaler"]["scale"] = 8.0
        scaled.load_state_dict(state)
        assert scaled.grad_scaler.get_scale() == 8.0
        # A training that goes on in half precision, or no longer does.
        plain.load_state_dict(state)
        scaled.load_state_dict(plain.state_dict())

    @pytest.mark.slow
    def test_processes_exchange_gradients_of_all_micro_batches(self, tmp_path):
        run_in_two_processes(_worker, tmp_path, str(tmp_path))
        first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
        weights, _ = one_step(MicroBatchTrainer, batches(4), accumulation_steps=4)
        for key, value in weights.items():
            torch.testing.assert_close(first[f"module.{key}"], value)
            assert torch.equal(first[f"module.{key}"], second[f"module.{key}"])


def _worker(rank, folder):
    model = DistributedDataParallel(Model())
    weights, _ = one_step(MicroBatchTrainer, batches(4)[rank::2], model, accumulation_steps=2)
    torch.save(weights, f"{folder}/{rank}.pth")


class TestEMA:
    def test_follows_the_weights_and_copies_buffers(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        ema = build_ema(model, 0.75)
        start = torch.full_like(model[0].weight, 4.0)
        with torch.no_grad():
            model[0].weight.copy_(start)  # as a checkpoint does before training
            ema.update_parameters(model)
            model[0].weight.zero_()
            model[1].running_mean.fill_(3.0)
        ema.update_parameters(model)
        torch.testing.assert_close(ema.module[0].weight, 0.75 * start)
        assert torch.equal(ema.module[1].running_mean, model[1].running_mean)
        assert not ema.module.training
        assert not any(parameter.requires_grad for parameter in ema.parameters())

    @pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
    def test_decay_is_checked(self, decay):
        with pytest.raises(UserError, match=r"SOLVER\.EMA\.DECAY is .*\[0, 1\)"):
            build_ema(nn.Linear(1, 1), decay)


EMA = ("SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.5")


def train(tiny_run, *overrides, resume=False):
    cfg = setup_config(str(tiny_run), list(overrides))
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    results = trainer.train()
    return trainer, results


def losses_of(trainer):
    """The total loss of each iteration."""
    return [loss for loss, _ in trainer.storage.history("total_loss").values()]


@pytest.mark.slow
class TestTrainingWithEMA:
    def test_is_evaluated_and_written_beside_the_weights(self, tiny_run, tmp_path):
        trainer, results = train(tiny_run, *EMA)
        assert set(results) == {"sem_seg", "sem_seg_EMA"}
        assert results["sem_seg_EMA"]["mIoU"] >= 0
        output = tmp_path / "output"
        model = build_model(trainer.cfg)
        load_weights(model, str(output / "model_final_ema.pth"))
        averaged = trainer.ema.module.state_dict()
        trained = trainer.model.state_dict()
        assert all(torch.equal(value, averaged[key]) for key, value in model.state_dict().items())
        assert any(not torch.equal(value, averaged[key]) for key, value in trained.items())
        assert Trainer.test(trainer.cfg, model)["sem_seg"] == results["sem_seg_EMA"]
        checkpoint = torch.load(output / "model_final.pth", weights_only=True)
        assert int(checkpoint["ema"]["n_averaged"]) == 4

    def test_continues_exactly_where_it_was(self, tiny_run, tmp_path):
        cut = ("DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "cut"))
        train(tiny_run, *EMA, *cut, "SOLVER.MAX_ITER", "2")
        before = torch.load(tmp_path / "cut/model_final.pth", weights_only=True)["ema"]
        cfg = setup_config(str(tiny_run), [*EMA, *cut])
        restored = Trainer(cfg)
        restored.resume_or_load(resume=True)
        state = restored.ema.state_dict()
        assert list(state) == list(before)
        assert all(torch.equal(before[key], state[key]) for key in before)
        resumed, _ = train(tiny_run, *EMA, *cut, resume=True)
        after = resumed.ema.state_dict()
        assert int(before["n_averaged"]) == 2 and int(after["n_averaged"]) == 4
        checkpoint = torch.load(tmp_path / "cut/model_final.pth", weights_only=True)["ema"]
        assert all(torch.equal(checkpoint[key], after[key]) for key in after)


@pytest.mark.slow
class TestKeys:
    """Each key alone, through train_net's trainer."""

    def losses(self, tiny_run, tmp_path, *overrides):
        output = tmp_path / ("_".join(overrides).replace(".", "_") or "plain")
        trainer, _ = train(tiny_run, "DATASETS.TEST", "()", "OUTPUT_DIR", str(output), *overrides)
        losses = losses_of(trainer)
        assert len(losses) == 4
        return losses

    def test_channels_last_changes_nothing_but_rounding(self, tiny_run, tmp_path):
        plain = self.losses(tiny_run, tmp_path)
        assert self.losses(tiny_run, tmp_path, "MODEL.CHANNELS_LAST", "True") == pytest.approx(
            plain, rel=1e-3
        )

    def test_bfloat16_trains_on_the_cpu(self, tiny_run, tmp_path):
        plain = self.losses(tiny_run, tmp_path)
        amp = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16")
        losses = self.losses(tiny_run, tmp_path, *amp)
        assert losses != plain
        assert losses == pytest.approx(plain, rel=0.2)

    def test_accumulation_takes_the_same_number_of_images(self, tiny_run, tmp_path):
        cfg = setup_config(str(tiny_run), ["SOLVER.ACCUMULATION_STEPS", "2"])
        batch = next(iter(Trainer.build_train_loader(cfg)))
        assert 2 * len(batch) == cfg.SOLVER.IMS_PER_BATCH == 4
        losses = self.losses(tiny_run, tmp_path, "SOLVER.ACCUMULATION_STEPS", "2")
        assert all(loss > 0 for loss in losses)

    def test_a_compiled_backbone_trains_alike(self, tiny_run, tmp_path):
        plain = self.losses(tiny_run, tmp_path)
        compiled = self.losses(tiny_run, tmp_path, "MODEL.COMPILE", "True")
        assert compiled == pytest.approx(plain, rel=1e-2)
        names = [
            list(torch.load(path, weights_only=True)["model"])
            for path in sorted(tmp_path.glob("*/model_final.pth"))
        ]
        assert len(names) == 2 and names[0] == names[1]

    def test_the_trainer_tells_classifiers_so_that_prototypes_move_once_a_step(self, tiny_run):
        cfg = setup_config(str(tiny_run), ["MODEL.META_ARCHITECTURE", "PrototypeSegmentor"])
        model = build_model(cfg)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        MicroBatchTrainer(model, [], optimizer, accumulation_steps=2)
        assert model.classifier.accumulation_steps == 2

    # The classifiers that move without a gradient.
    @pytest.mark.parametrize(
        "meta_architecture", ["PrototypeSegmentor", "GaussianMixtureSegmentor"]
    )
    def test_two_workers_with_everything(self, tiny_run, tmp_path, meta_architecture):
        overrides = [*EMA, "SOLVER.ACCUMULATION_STEPS", "2", "MODEL.CHANNELS_LAST", "True"]
        overrides += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"]
        overrides += ["MODEL.SYNC_BN", "True", "MODEL.ENCODER.ACTIVATION_CHECKPOINTING", "True"]
        overrides += ["MODEL.META_ARCHITECTURE", meta_architecture]
        code, output = run_train_net("--config-file", tiny_run, "--num-gpus", 2, *overrides)
        assert code == 0, output
        assert "MODEL.SYNC_BN has no effect" in output
        [results] = json.loads((tmp_path / "output/evaluation.json").read_text()).values()
        assert set(results["context_shapes_sem_seg_val"]) == {"sem_seg", "sem_seg_EMA"}

    def test_a_compiled_backbone_computes_the_same_under_the_same_names(
        self, tiny_run, monkeypatch
    ):
        # The training above goes through the C++ compiler, which takes half a minute.
        backend = CompileCounterWithBackend("aot_eager")
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        plain = setup_config(str(tiny_run), [])
        torch.manual_seed(0)
        expected = Trainer.build_model(plain).eval()
        compiled = Trainer.build_model(
            setup_config(str(tiny_run), ["MODEL.COMPILE", "True"])
        ).eval()
        assert list(compiled.state_dict()) == list(expected.state_dict())
        compiled.load_state_dict(expected.state_dict())
        for size in ((64, 64), (96, 64)):
            inputs = [{"image": torch.randint(0, 255, (3, *size), dtype=torch.uint8)}]
            with torch.no_grad():
                torch.testing.assert_close(
                    compiled(inputs)[0]["sem_seg"],
                    expected(inputs)[0]["sem_seg"],
                    rtol=1e-3,
                    atol=1e-3,
                )
        assert backend.frame_count > 0


def test_synchronised_batch_norm_keeps_the_names_in_checkpoints(tiny_config, monkeypatch):
    model = build_model(tiny_config)
    names = list(model.state_dict())
    assert synchronize_batch_norm(model) is model  # one worker
    monkeypatch.setattr("d2_ctxseg.engine.model_options.comm.get_world_size", lambda: 2)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in synchronize_batch_norm(model).modules())
    on_gpus = synchronize_batch_norm(build_model(tiny_config).to("meta"))  # anything but the CPU
    assert list(on_gpus.state_dict()) == names
    assert any(isinstance(module, nn.SyncBatchNorm) for module in on_gpus.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in on_gpus.modules())


def test_channels_last_reaches_the_backbones_input(tiny_config):
    model = build_model(tiny_config).eval()
    plain = copy.deepcopy(model)
    use_channels_last(model)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    inputs = [{"image": torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)}]
    with torch.no_grad():
        result, expected = model(inputs)[0]["sem_seg"], plain(inputs)[0]["sem_seg"]
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("SOLVER.ACCUMULATION_STEPS", "3"), "must be a multiple of their product"),
        (("SOLVER.ACCUMULATION_STEPS", "0"), "SOLVER.ACCUMULATION_STEPS is 0"),
        (
            ("SOLVER.ACCUMULATION_STEPS", "0", "MODEL.META_ARCHITECTURE", "PrototypeSegmentor"),
            "SOLVER.ACCUMULATION_STEPS is 0",
        ),
        (("SOLVER.AMP.PRECISION", "bf16"), "Did you mean 'bfloat16'"),
        (("SOLVER.EMA.DECAY", "1.5", "SOLVER.EMA.ENABLED", "True"), "SOLVER.EMA.DECAY is 1.5"),
        (("SOLVER.MIN_LR", "1.0"), "SOLVER.MIN_LR is 1.0"),
        (("SOLVER.LAYER_DECAY", "0.9"), "SOLVER.LAYER_DECAY needs an encoder"),
    ],
)
def test_bad_values_are_reported(tiny_run, overrides, message):
    with pytest.raises(UserError, match=message):
        Trainer(setup_config(str(tiny_run), list(overrides)))


def test_float16_is_turned_off_on_the_cpu_and_bfloat16_is_not(tiny_run, caplog):
    enabled = ["MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "True"]
    assert not setup_config(str(tiny_run), enabled).SOLVER.AMP.ENABLED
    assert "float16 needs a GPU" in caplog.text
    both = [*enabled, "SOLVER.AMP.PRECISION", "bfloat16"]
    assert setup_config(str(tiny_run), both).SOLVER.AMP.ENABLED
