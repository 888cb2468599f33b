"""What a study consists of: classifiers and variants, runs, commands, bad input."""

import shlex

import pytest
import yaml

from d2_ctxseg.comparison import parse_variant, plan_runs
from d2_ctxseg.comparison.jobs import make_slots
from d2_ctxseg.comparison.plan import iterations_done, run_state


def plan(tiny_run, names=("linear", "context_aware"), seeds=(1, 2), opts=(), output=None):
    variants = [parse_variant(name) for name in names]
    return plan_runs(str(tiny_run), variants, list(seeds), output or tiny_run.parent / "out", opts)


class TestVariants:
    def test_a_classifier(self):
        variant = parse_variant("prototype")
        assert variant.label == "prototype"
        assert variant.overrides == ("MODEL.META_ARCHITECTURE", "PrototypeSegmentor")

    def test_an_own_classifier_by_its_registered_name(self):
        overrides = parse_variant("LinearClassifier").overrides
        assert overrides[1::2] == ("PixelClassifierSegmentor", "LinearClassifier")

    def test_options_of_the_classifier_need_no_path(self):
        variant = parse_variant("no_kl=context_aware,LOSS_WEIGHT_KL=0,SOLVER.BASE_LR=0.1")
        assert variant.label == "no_kl"
        assert variant.overrides[2:] == (
            *("MODEL.CLASSIFIER.CONTEXT_AWARE.LOSS_WEIGHT_KL", "0"),
            *("SOLVER.BASE_LR", "0.1"),
        )

    def test_commas_in_brackets_belong_to_the_value(self):
        variant = parse_variant("a=linear,INPUT.CROP.SIZE=[64,64],SOLVER.STEPS=(1,2)")
        assert variant.overrides[2:] == ("INPUT.CROP.SIZE", "[64,64]", "SOLVER.STEPS", "(1,2)")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("contextaware", "no classifier 'contextaware'.*Did you mean 'context_aware'"),
            ("a=context_aware,LOSS_WEIGHT_KL", "'LOSS_WEIGHT_KL' .* is not KEY=VALUE"),
            ("a=linear,SCALE=3", "'linear' .* has no options of its own"),
            ("../a=linear", "cannot be the name of a folder"),
        ],
    )
    def test_another_form_is_reported(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_variant(text)


class TestPlan:
    def test_every_classifier_with_every_seed_the_first_seeds_first(self, tiny_run):
        runs = plan(tiny_run)
        assert [(run.variant.label, run.seed) for run in runs] == [
            *(("linear", 1), ("context_aware", 1)),
            *(("linear", 2), ("context_aware", 2)),
        ]
        assert runs[1].folder == tiny_run.parent / "out" / "context_aware" / "seed_1"

    def test_a_run_is_the_base_config_with_a_classifier_and_a_seed(self, tiny_run):
        cfg = plan(tiny_run, opts=["SOLVER.MAX_ITER", "9"])[1].config()
        assert cfg.MODEL.META_ARCHITECTURE == "ContextAwareSegmentor"
        assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (1, 9)

    def test_its_command_can_be_pasted(self, tiny_run):
        run = plan(tiny_run, ["a=linear,INPUT.CROP.SIZE=[64, 64]"])[0]
        words = shlex.split(run.shell_command())
        assert words[:4] == ["d2-ctxseg", "train", "--config-file", str(tiny_run)]
        assert words[words.index("INPUT.CROP.SIZE") + 1] == "[64, 64]"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"names": ["linear", "linear"]}, "label 'linear' was given more than once"),
            ({"seeds": [1, 2, 1]}, "seed '1' was given more than once"),
            ({"seeds": [-1]}, "a new seed at each start"),
            ({"opts": ["SEED", "3"]}, "SEED is among the overrides"),
            ({"opts": ["MODEL.META_ARCHITECTURE", "X"]}, "Set classifiers with --classifiers"),
            ({"opts": ["SOLVER.BASE_LRR", "3"]}, "Did you mean 'SOLVER.BASE_LR'"),
            ({"opts": ["MODEL.SEM_SEG_HEAD.NAME", "ECEHead"]}, "ECEHead classifies by itself"),
            ({"names": ["a=context_aware,SCALEE=1"]}, "Did you mean .*SCALE"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, tiny_run, options, message):
        with pytest.raises(ValueError, match=message):
            plan(tiny_run, **options)

    def test_a_base_config_that_fixes_the_classifier_is_refused(self, tiny_run):
        config = yaml.safe_load(tiny_run.read_text())
        config["MODEL"]["CLASSIFIER"] = {"NAME": "PrototypeClassifier"}
        tiny_run.write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError, match="fixes the classifier: its MODEL.CLASSIFIER.NAME"):
            plan(tiny_run)


class TestState:
    def write_config(self, run, opts=()):
        cfg = run.config().clone()
        cfg.defrost()
        cfg.merge_from_list(list(opts))
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_text(cfg.dump())

    def test_of_a_run_that_has_not_begun(self, tiny_run):
        state = run_state(plan(tiny_run)[0])
        assert (state.finished, state.iteration) == (False, 0)

    def test_of_one_that_was_interrupted(self, tiny_run):
        run = plan(tiny_run)[0]
        self.write_config(run, ["MODEL.DEVICE", "cuda", "DATALOADER.NUM_WORKERS", 3])
        (run.folder / "metrics.json").write_text('{"iteration": 19}\n{"iteration": 39}\n{"iter')
        state = run_state(run)
        assert (state.finished, state.iteration) == (False, 40)

    def test_the_folder_of_another_study_is_refused(self, tiny_run):
        run = plan(tiny_run)[0]
        self.write_config(run, ["SOLVER.BASE_LR", 0.5])
        with pytest.raises(
            ValueError, match="another study: SOLVER.BASE_LR is 0.5 there and 0.001"
        ):
            run_state(run)

    def test_iterations_of_a_damaged_file_are_0(self, tmp_path):
        (tmp_path / "metrics.json").write_bytes(b"\xff\x00 no json\n[]\n")
        assert iterations_done(tmp_path) == 0


class TestSlots:
    def test_cores_and_gpus_are_divided(self):
        slots = make_slots(2, cores=16, gpus=4)
        assert [(slot.threads, slot.gpus) for slot in slots] == [(8, (0, 1)), (8, (2, 3))]

    def test_more_jobs_than_gpus_use_them_together(self):
        assert [slot.gpus for slot in make_slots(3, cores=8, gpus=2)] == [(0,), (1,), (0,)]

    def test_each_says_what_it_has(self):
        assert str(make_slots(2, cores=2, gpus=0)[0]) == "1 CPU thread"
        assert str(make_slots(1, cores=4, gpus=1)[0]) == "4 CPU threads, GPU 0"

    @pytest.mark.parametrize("jobs", [0, -1, 3])
    def test_no_more_jobs_than_cores(self, jobs):
        with pytest.raises(ValueError, match=f"--jobs {jobs}: expected 1 to 2"):
            make_slots(jobs, cores=2, gpus=0)
