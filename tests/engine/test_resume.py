"""A run that is interrupted anywhere and resumed equals the uninterrupted run bit for bit."""

import json
import os
import shutil
import signal

import pytest
import torch
from resume_runs import differences, start, wait, write_config
from tiny_training import AfterStep

from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.engine.checkpoints import BestCheckpoint
from d2_ctxseg.engine.metrics import MetricsWriter
from d2_ctxseg.engine.random_state import preserved_random_state
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.files import WriteError
from detectron2.utils.env import seed_all_rng


@pytest.fixture
def folder(tmp_path, context_shapes_root, monkeypatch):
    """Where the runs of a test lie."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
    return tmp_path


class Killed(BaseException):
    """Ends a training in the middle of anything."""


def run(folder, name, *opts, resume=False, hook=None, steps=9):
    """Train in this process; the trainer."""
    config = write_config(folder / f"{name}.yaml", folder / name)
    cfg = setup_config(str(config), ["SOLVER.MAX_ITER", steps, *opts])
    with preserved_random_state():
        seed_all_rng(7)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        if hook is not None:
            trainer.register_hooks([hook])
        trainer.train()
    return trainer


def killed_after(iteration):
    def end(trainer):
        if trainer.iter == iteration:
            raise Killed

    return AfterStep(end)


class TestInOneProcess:
    def test_continues_exactly(self, folder):
        run(folder, "whole")
        for end in (2, 5):
            with pytest.raises(Killed):
                run(folder, "killed", resume=True, hook=killed_after(end))
        run(folder, "killed", "DATALOADER.NUM_WORKERS", 1, resume=True)
        assert differences(folder / "whole", folder / "killed") == []

    def test_a_drawn_seed_stays_the_runs(self, folder, caplog):
        caplog.set_level("INFO")
        with pytest.raises(Killed):
            run(folder, "killed", "SEED", -1, hook=killed_after(4), steps=6)
        last = torch.load(folder / "killed" / "model_0000003.pth", weights_only=True)
        seed = last["run"]["seed"]
        assert f"SEED is {seed}, drawn at random" in caplog.text
        assert seed == run(folder, "killed", "SEED", -1, resume=True, steps=6).cfg.SEED
        run(folder, "whole", "SEED", seed, steps=6)
        assert differences(folder / "whole", folder / "killed") == []

    def test_a_worse_model_does_not_replace_the_best(self, folder, caplog):
        caplog.set_level("INFO")
        run(folder, "run", steps=6)
        best = folder / "run" / "model_best.pth"
        content = torch.load(best, weights_only=True)
        content["best"]["value"] = 99.9
        torch.save(content, best)
        before = best.read_bytes()
        (folder / "run" / "metrics.json").unlink()
        run(folder, "run", resume=True, steps=12)
        assert best.read_bytes() == before
        assert "Best sem_seg/mIoU so far: 99.90 at iteration 5" in caplog.text

    def test_a_checkpoint_of_detectron2_continues_with_a_warning(self, folder, caplog):
        run(folder, "run", "DATASETS.TEST", "()", steps=4)
        path = folder / "run" / "model_final.pth"
        content = torch.load(path, weights_only=True)
        del content["run"], content["trainer"]["hooks"]["WriteMetrics"]
        torch.save(content, path)
        trainer = run(folder, "run", "DATASETS.TEST", "()", resume=True, steps=6)
        assert trainer.start_iter == 4
        assert "not those of the uninterrupted run" in caplog.text
        assert trainer.run_state.loaders["train"].state_dict()["next"] >= 6 * 4

    def test_weights_alone_are_refused(self, folder):
        (folder / "run").mkdir()
        torch.save({"model": {}}, folder / "run" / "model_final.pth")
        (folder / "run" / "last_checkpoint").write_text("model_final.pth")
        with pytest.raises(UserError, match="not the state of a training"):
            run(folder, "run", resume=True)

    def test_a_deleted_folder_is_one_message(self, folder):
        def remove(trainer):
            if trainer.iter == 4:
                shutil.rmtree(folder / "run")

        with pytest.raises(
            WriteError, match="after iteration 5.*cannot be written.*no longer exists"
        ):
            run(folder, "run", "DATASETS.TEST", "()", hook=AfterStep(remove))

    @pytest.fixture
    def ctrl_c_in_evaluation(self, monkeypatch):
        """A context in which the user gives up as soon as an evaluation begins."""
        build = Trainer.build_evaluator.__func__

        def interrupted(cls, *arguments, **options):
            signal.raise_signal(signal.SIGINT)
            return build(cls, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "build_evaluator", classmethod(interrupted))
            yield patch

    def test_ctrl_c_in_an_evaluation_saves_and_evaluates_again(self, folder, ctrl_c_in_evaluation):
        with pytest.raises(KeyboardInterrupt):
            run(folder, "stopped")
        ctrl_c_in_evaluation.undo()
        assert (folder / "stopped" / "last_checkpoint").read_text() == "model_0000005.pth"
        assert not list((folder / "stopped").glob("inference/*/*/results.json"))
        run(folder, "stopped", resume=True)
        run(folder, "whole")
        assert differences(folder / "whole", folder / "stopped") == []

    def test_ctrl_c_in_the_last_evaluation_is_reported(self, folder, ctrl_c_in_evaluation, caplog):
        opts = ("TEST.EVAL_PERIOD", 0)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "stopped", *opts, steps=2)
        assert "the training, which is complete. --resume evaluates again" in caplog.text
        ctrl_c_in_evaluation.undo()
        trainer = run(folder, "stopped", *opts, resume=True, steps=2)
        assert trainer.start_iter == 2
        run(folder, "whole", *opts, steps=2)
        assert differences(folder / "whole", folder / "stopped") == []


def die(*arguments, **options):
    os.killpg(0, signal.SIGKILL)


def dies_in(owner, name, *, call=1, after=False):
    """Lets a process die in the given call of a function, or when it returns."""
    original, calls = getattr(owner, name), []

    def replacement(*arguments, **options):
        calls.append(name)
        if len(calls) == call and not after:
            die()
        result = original(*arguments, **options)
        if len(calls) == call:
            die()
        return result

    setattr(owner, name, replacement)


def die_while_saving():
    def save(data, file):
        file.write(b"half a checkpoint")
        file.flush()
        die()

    torch.save = save


DEATHS = {
    "before the first checkpoint": lambda: dies_in(Trainer, "run_step", call=3),
    "in the middle of a checkpoint": die_while_saving,
    "before it is named the last": lambda: dies_in(os, "replace", call=4),
    "after it": lambda: dies_in(Trainer, "save_checkpoint", after=True),
    "in an evaluation": lambda: dies_in(Trainer, "build_evaluator"),
    "when the best is saved": lambda: dies_in(BestCheckpoint, "_is_better", after=True),
    "after the best was saved": lambda: dies_in(BestCheckpoint, "_compare", after=True),
    "before metrics are written": lambda: dies_in(MetricsWriter, "write"),
    "after metrics were written": lambda: dies_in(MetricsWriter, "write", after=True),
    "in the last evaluation": lambda: dies_in(Trainer, "build_evaluator"),
    "before the results are written": lambda: dies_in(json, "dump", call=3),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "opts",
    [(), ("SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.EMA.ENABLED", True)],
    ids=["prototypes", "accumulation and EMA"],
)
def test_killed_at_every_tricky_moment(folder, opts):
    opts = ["SOLVER.MAX_ITER", 14, *opts]
    whole, killed = folder / "whole", folder / "killed"
    configs = [write_config(folder / f"{path.name}.yaml", path) for path in (whole, killed)]
    console = folder / "console.txt"
    assert wait(start("--config-file", configs[0], *opts, console=console)) == 0
    for number, death in enumerate(DEATHS.values()):
        workers = ["DATALOADER.NUM_WORKERS", number % 3]
        pid = start(
            *("--config-file", configs[1], "--resume", *opts, *workers),
            console=console,
            before=death,
        )
        assert wait(pid) == -signal.SIGKILL, console.read_text()[-3000:]
    pid = start("--config-file", configs[1], "--resume", *opts, console=console)
    assert wait(pid) == 0, console.read_text()[-3000:]
    assert differences(whole, killed) == []
