"""benchmarks/: the class-by-class implementations, the measurement and the tables."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from train_net_runs import ROOT

from d2_ctxseg.classifiers import (
    ContextAwareClassifier,
    GaussianMixtureClassifier,
    LinearClassifier,
)
from d2_ctxseg.classifiers.prototype import PrototypeClassifier

BENCHMARKS = ROOT / "benchmarks"
FIXTURES = Path(__file__).parent / "fixtures"
REFERENCE = runpy.run_path(str(BENCHMARKS / "reference.py"))
MEASUREMENT = runpy.run_path(str(BENCHMARKS / "measurement.py"))
Convolution = REFERENCE["Convolution"]
ClassByClassContextAware = REFERENCE["ClassByClassContextAware"]
ClassByClassGaussianMixture = REFERENCE["ClassByClassGaussianMixture"]
ClassByClassPrototype = REFERENCE["ClassByClassPrototype"]
Task = MEASUREMENT["Task"]
CPU = torch.device("cpu")


def batch(seed, num_classes=7, channels=16, ignored=0.2):
    """Features (2, C, 6, 5) and labels (2, 12, 10), some ignored, the last class absent."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, 6, 5, generator=generator)
    labels = torch.randint(num_classes - 1, (2, 12, 10), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    labels[0, 0, 0] = 0
    return features, labels


def losses_and_gradients(classifier, features, labels):
    """Losses by name, and the gradients of their sum on the features and the parameters."""
    features = features.clone().requires_grad_()
    classifier.train()
    classifier.zero_grad()
    losses = classifier.losses(features, labels)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in classifier.named_parameters()}
    return losses, gradients | {"features": features.grad}


def assert_the_same(classifier, reference, features, labels):
    """Logits, losses and gradients of both, the reference having the classifier's weights."""
    reference.load_state_dict(classifier.state_dict())
    classifier.eval()
    reference.eval()
    with torch.no_grad():
        torch.testing.assert_close(classifier(features), reference(features), rtol=1e-4, atol=1e-5)
    losses, gradients = losses_and_gradients(classifier, features, labels)
    expected_losses, expected_gradients = losses_and_gradients(reference, features, labels)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


class TestReferencesGiveWhatTheProjectsClassifiersGive:
    @pytest.mark.parametrize("align_corners", [False, True])
    def test_convolution(self, align_corners):
        options = {"align_corners": align_corners}
        assert_the_same(
            LinearClassifier(16, 7, **options), Convolution(16, 7, **options), *batch(1)
        )

    @given(seed=st.integers(0, 1000), ignored=st.floats(0, 0.9), align_corners=st.booleans())
    @settings(max_examples=10, deadline=None)
    def test_context_aware(self, seed, ignored, align_corners):
        torch.manual_seed(seed)
        options = {"align_corners": align_corners, "scale": 10.0}
        classifier = ContextAwareClassifier(16, 7, auxiliary_align_corners=align_corners, **options)
        reference = ClassByClassContextAware(16, 7, **options)
        assert_the_same(classifier, reference, *batch(seed, ignored=ignored))

    @given(
        seed=st.integers(0, 1000),
        ignored=st.floats(0, 0.9),
        num_prototypes=st.integers(1, 4),
        temperature=st.sampled_from([0.1, 1.0]),
    )
    @settings(max_examples=10, deadline=None)
    def test_prototype(self, seed, ignored, num_prototypes, temperature):
        torch.manual_seed(seed)
        options = {
            "num_prototypes": num_prototypes,
            "momentum": 0.9,
            "assignment": "argmax",
            "temperature": temperature,
        }
        classifier = PrototypeClassifier(16, 7, **options)
        reference = ClassByClassPrototype(16, 7, **options)
        features, labels = batch(seed, ignored=ignored)
        assert_the_same(classifier, reference, features, labels)
        torch.testing.assert_close(
            classifier.prototypes, reference.prototypes, rtol=1e-4, atol=1e-6
        )

    @given(seed=st.integers(0, 1000), ignored=st.floats(0, 0.9))
    @settings(max_examples=10, deadline=None)
    def test_gaussian_mixture(self, seed, ignored):
        """Without a projection; test_gaussian_mixture_classifier.py has several steps."""
        torch.manual_seed(seed)
        options = {"num_components": 3, "embedding_channels": 16, "memory_size": 30}
        classifier = GaussianMixtureClassifier(16, 7, **options)
        classifier.scales.fill_(0.3)  # a new one's scores are nearly equal
        reference = ClassByClassGaussianMixture(16, 7, **options)
        assert_the_same(classifier, reference, *batch(seed, ignored=ignored))
        states = classifier.state_dict(), reference.state_dict()
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)

    def test_prototypes_move(self):
        """Else the comparison above would compare nothing."""
        reference = ClassByClassPrototype(16, 7, momentum=0.9)
        before = reference.prototypes
        reference.losses(*batch(1))
        assert (reference.prototypes - before).abs().max() > 0.01


class TestReferencesGiveTheAuthorsNumbers:
    def load(self, name, renamed):
        numbers = {key: torch.from_numpy(x) for key, x in np.load(FIXTURES / f"{name}.npz").items()}
        state = {}
        for key, value in numbers.items():
            if key.startswith("state/"):
                module, dot, rest = key.removeprefix("state/").partition(".")
                state[renamed.get(module, module) + dot + rest] = value
        return numbers, state

    def test_context_aware(self):
        renamed = {
            "conv_seg": "predictor",
            "proj": "estimated_projector",
            "apd_proj": "oracle_projector",
        }
        numbers, state = self.load("context_aware", renamed)
        reference = ClassByClassContextAware(16, 7)
        reference.load_state_dict(state)
        features, labels = numbers["input/features"], numbers["input/labels"].long()
        expected = numbers["output/refined_logits"]
        torch.testing.assert_close(reference(features), expected, atol=1e-4, rtol=0)
        losses, gradients = losses_and_gradients(reference, features, labels)
        torch.testing.assert_close(losses["loss_kl"], numbers["output/kl"], rtol=1e-5, atol=0)
        total = sum(losses.values())
        torch.testing.assert_close(total, numbers["output/total"], rtol=1e-5, atol=0)
        expected = numbers["output/grad_features"]
        torch.testing.assert_close(gradients["features"], expected, rtol=1e-4, atol=1e-7)

    def test_prototype(self):
        renamed = {"feat_norm": "feature_norm", "mask_norm": "score_norm"}
        numbers, state = self.load("prototype", renamed)
        reference = ClassByClassPrototype(
            16, 6, num_prototypes=4, momentum=0.9, assignment="argmax"
        )
        reference.load_state_dict(state)
        features, labels = numbers["input/features"], numbers["input/labels"].long()
        expected = numbers["output/logits"]
        torch.testing.assert_close(reference(features), expected, atol=1e-4, rtol=0)
        losses = reference.losses(features, labels)
        expected = {
            "loss_sem_seg": numbers["output/ce_align_corners_false"],
            "loss_ppc": 0.01 * numbers["output/ppc"],
            "loss_ppd": 0.001 * numbers["output/ppd"],
        }
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
        expected = numbers["output/updated_prototypes"]
        torch.testing.assert_close(reference.prototypes, expected, atol=1e-6, rtol=0)

    def test_gaussian_mixture(self):
        renamed = {"diagonal": "scales", "feat_norm": "feature_norm", "mask_norm": "score_norm"}
        renamed |= {"queue": "memory.samples", "queue_ptr": "memory.pointers"}
        renamed |= {"iteration_counter": "memory.steps"}
        numbers, state = self.load("gaussian_mixture", renamed)
        del state["eye_matrix"]
        options = {"num_components": 3, "embedding_channels": 16, "memory_size": 20}
        options |= {"max_samples": 8, "mean_momentum": 0.9, "scale_momentum": 0.5}
        reference = ClassByClassGaussianMixture(16, 6, **options)
        reference.load_state_dict(state)
        features, labels = numbers["input/features"], numbers["input/labels"].long()
        expected = numbers["output/logits"]
        torch.testing.assert_close(reference(features), expected, atol=1e-4, rtol=0)
        losses, gradients = losses_and_gradients(reference, features, labels)
        expected = numbers["output/total_valid_mean"]
        torch.testing.assert_close(sum(losses.values()), expected, rtol=1e-5, atol=0)
        expected = numbers["output/grad_features_valid_mean"]
        torch.testing.assert_close(gradients["features"], expected, rtol=1e-4, atol=1e-7)
        for ours, theirs in {"means": "means", "scales": "diagonal"}.items():
            expected = numbers[f"output/updated_{theirs}"]
            torch.testing.assert_close(getattr(reference, ours), expected, atol=1e-6, rtol=0)
        expected = numbers["output/updated_queue"]
        torch.testing.assert_close(reference.memory.samples, expected, atol=1e-6, rtol=0)


def make_task(call, phase="test", name="task", table="classifiers", module=None):
    return Task(table, name, phase, module or nn.Identity(), call)


class TestMeasurement:
    def test_memory_counts_gradients_every_time(self):
        """The gradients of the call before must not be there already."""
        linear = nn.Linear(512, 512, bias=False)
        task = make_task(
            lambda: linear(torch.ones(1, 512)).sum().backward(), "training", module=linear
        )
        peaks = []
        for _ in range(2):
            MEASUREMENT["measure"]([task], 1, CPU)
            peaks.append(task.memory)
        assert peaks[0] == peaks[1] >= 512 * 512 * 4
        assert linear.weight.grad is None

    def test_every_repeat_runs_every_call_once_in_changing_order(self):
        calls = []
        tasks = [make_task(lambda i=i: calls.append(i)) for i in range(4)]
        MEASUREMENT["measure"](tasks, 5, CPU)
        # Two calls of each come first: the warm-up, and the one whose memory is measured.
        assert calls[:8] == [0, 0, 1, 1, 2, 2, 3, 3]
        rounds = [calls[i : i + 4] for i in range(8, len(calls), 4)]
        assert [sorted(r) for r in rounds] == [[0, 1, 2, 3]] * 5
        assert len({tuple(r) for r in rounds}) > 1
        assert all(len(task.seconds) == 5 and min(task.seconds) >= 0 for task in tasks)

    def test_gradients_are_on_in_training_only(self):
        states = {}
        module = nn.Identity()
        for phase in ("test", "training"):

            def call(phase=phase):
                states[phase] = (torch.is_grad_enabled(), module.training)

            MEASUREMENT["measure"]([make_task(call, phase, module=module)], 1, CPU)
        assert states == {"test": (False, False), "training": (True, True)}


@pytest.fixture
def script(monkeypatch):
    """benchmarks/classifiers.py as a function of its arguments; without any: its names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(*arguments, name="classifiers.py"):
        path = str(BENCHMARKS / name)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        return runpy.run_path(path, run_name="__main__" if arguments else "benchmark")

    yield run
    for name in ("measurement", "reference", "classifiers"):
        sys.modules.pop(name, None)


def rows_of(text, title):
    """The cells of the table below the line that begins with ``title``."""
    lines = text[text.index(title) :].splitlines()[2:]
    lines = lines[: lines.index("")] if "" in lines else lines
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


class TestTables:
    def test_medians_ratios_and_memory(self, script):
        times = {
            "Convolution": [0.010, 0.020, 0.090],
            "ContextAwareClassifier": [0.030, 0.030, 0.031],
            "ClassByClassContextAware": [0.060, 0.059, 0.061],
        }
        tasks = []
        for name, seconds in times.items():
            tasks.append(make_task(None, "test", name))
            tasks[-1].seconds, tasks[-1].memory = seconds, 3 * 2**20
        rows = rows_of(f"Title\n\n{script()['make_table']('classifiers', tasks)}", "Title")
        assert rows[0] == ["", "test, ms", "× Convolution", "× class by class", "MiB"]
        assert rows[2:] == [
            ["Convolution", "20.0", "1.00", "–", "3.0"],
            ["ContextAwareClassifier", "30.0", "1.50", "0.50", "3.0"],
            ["ClassByClassContextAware", "60.0", "3.00", "–", "3.0"],
        ]

    def test_labels_show_the_classes_requested_and_some_ignored(self, script):
        names = script()
        size = names["SIZES"]["paper"]
        _, labels = names["pixel_inputs"](size, 1, CPU)
        assert labels.shape == (2, 512, 512)
        assert len(labels.unique()) == size.classes_present + 1
        assert 0.02 < (labels == 255).float().mean() < 0.12

    def test_classifiers_from_the_command_line(self, script, capsys, tmp_path):
        script(
            *["--device", "cpu", "--size", "small", "--repeats", 1, "--classes-present", 3],
            *["--only", "classifiers", "prototypes", "--json", tmp_path / "times.json"],
        )
        output = capsys.readouterr().out
        assert f"torch: {torch.__version__}" in output
        rows = rows_of(output, "Classifiers on 16 channels: 7 classes")[2:]
        assert [row[0] for row in rows] == [
            "Convolution",
            "LinearClassifier",
            "ContextAwareClassifier",
            "ClassByClassContextAware",
            "SemanticSpatialClassifier",
            "ExplicitClassClassifier",
        ]
        assert all(float(row[1]) >= 0 for row in rows)
        assert [row[3] != "–" for row in rows] == [False, False, True, False, False, False]
        rows = rows_of(output, "Prototypes on 16 channels: 7 classes")[2:]
        assert [row[0] for row in rows] == [
            "Convolution",
            "PrototypeClassifier",
            "ClassByClassPrototype",
            "LearnedPrototypeClassifier",
        ]
        assert "Whole segmentors" not in output
        written = json.loads((tmp_path / "times.json").read_text())
        assert written["size"]["classes_present"] == 3
        assert len(written["calls"]) == 20
        assert all(len(call["seconds"]) == 1 for call in written["calls"])
        assert all(call["memory"] > 0 for call in written["calls"])

    def test_configs_have_ratios_to_the_first(self, script):
        tasks = []
        for name, milliseconds in (("first", 20), ("second", 30)):
            for phase, factor in (("training", 10), ("test", 1)):
                tasks.append(make_task(None, phase, name))
                tasks[-1].seconds = [factor * x / 1000 for x in (1, milliseconds, 99)]
                tasks[-1].memory = 3 * 2**20
        table = script(name="configs.py")["make_table"](tasks)
        assert rows_of(f"Title\n\n{table}", "Title")[2:] == [
            ["first", "200", "1.00", "3", "20", "1.00", "3"],
            ["second", "300", "1.50", "3", "30", "1.50", "3"],
        ]

    @pytest.mark.slow
    def test_configs_from_the_command_line(self, script, capsys):
        names = ["quickstart", "camvid/fpn_resnet18_linear"]
        arguments = ["--device", "cpu", "--batch-size", 2, "--repeats", 1]
        script(*names, *arguments, name="configs.py")
        rows = rows_of(capsys.readouterr().out, "Batch size 2.")[2:]
        assert [row[0] for row in rows] == names
        assert all(float(cell) > 0 for row in rows for cell in row[1:])

    def test_segmentors_and_heads_from_the_command_line(self, script, capsys):
        script(
            *["--device", "cpu", "--size", "small", "--repeats", 1],
            *["--only", "segmentors", "heads"],
        )
        output = capsys.readouterr().out
        rows = rows_of(output, "Whole segmentors")
        assert rows[0] == ["", "test, ms", "× LinearSegmentor", "MiB"]
        assert [row[0] for row in rows[2:]] == ["LinearSegmentor", "ContextAwareSegmentor"]
        rows = rows_of(output, "Heads")
        assert [row[0] for row in rows[2:]] == ["UPerNet", "ECEHead"]

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--only", "Convolutoin"], "unknown name 'Convolutoin'.*Did you mean 'Convolution'"),
            (["--repeats", 0], "--repeats is 0, must be at least 1"),
            (["--threads", 0], "--threads is 0, must be at least 1"),
            (["--classes-present", 8], "--classes-present is 8, but there are 7 classes"),
            (["--device", "gpu"], "--device: 'gpu' cannot be used"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, script, arguments, message):
        with pytest.raises(SystemExit, match=message):
            script("--size", "small", *arguments)


class TestGpu:
    def test_every_classifier_in_every_precision(self, script, capsys, tmp_path):
        file = tmp_path / "gpu.json"
        options = ["--device", "cpu", "--size", "small", "--repeats", 1, "--json", file]
        script(*options, name="gpu.py")
        rows = json.loads(file.read_text())["rows"]
        names = ["Convolution", "ContextAwareClassifier", "ClassByClassPrototype"]
        cases = {(row["classifier"], row["precision"]) for row in rows}
        assert {(n, p) for n in names for p in ("float32", "float16", "bfloat16")} <= cases
        # The device is the CPU here: it agrees with itself.
        assert {row["losses"] for row in rows if row["precision"] == "float32"} == {0.0}
        assert all(row["training"]["memory"] > 0 for row in rows)
        assert "| ContextAwareClassifier" in capsys.readouterr().out

    def test_disagreement_is_an_error(self, script, capsys, monkeypatch):
        forward = LinearClassifier.forward
        calls = []

        def changing(self, features):
            calls.append(1)
            return forward(self, features) * len(calls)

        monkeypatch.setattr(LinearClassifier, "forward", changing)
        with pytest.raises(SystemExit):
            script("--device", "cpu", "--size", "small", "--repeats", 1, name="gpu.py")
        assert "above the limit: LinearClassifier (float32)" in capsys.readouterr().out

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_a_gpu_is_reported(self, script):
        with pytest.raises(SystemExit, match="'cuda' cannot be used"):
            script("--size", "small", name="gpu.py")


class TestLoader:
    def test_the_former_way_gives_what_the_mapper_gives(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        loader = runpy.run_path(str(BENCHMARKS / "loader.py"))
        size, edges, crop = (60, 80), (60, 240), (32, 48)
        name = "loader_benchmark"
        case = loader["synthetic"](name, tmp_path, size, 9, ".png", 2, edges, crop)
        for antialias in (False, True):
            before = loader["Before"](case, antialias)
            mapper = loader["SemanticSegmentorMapper"](case.cfg(antialias), is_train=True)
            for seed, record in enumerate(case.records * 4):
                results = []
                for way in (before, mapper):
                    np.random.seed(seed)  # noqa: NPY002 (what Detectron2 seeds)
                    results.append(way(record))
                expected, found = results
                assert found["sem_seg"].equal(expected["sem_seg"])
                difference = found["image"].float() - expected["image"].float()
                assert difference.abs().mean() < 2  # changed colours make roundings larger

    def test_figures_are_medians_and_their_ratios(self, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        loader = runpy.run_path(str(BENCHMARKS / "loader.py"))
        floor, ours, theirs = loader["FLOOR"], "a: SemanticSegmentorMapper", "a: others"
        seconds = {floor: [1e-3, 2e-3, 9e-3], ours: [2e-3, 4e-3, 9e-3], theirs: [6e-3] * 3}
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in loader["format_table"](seconds).splitlines()[2:]
        ]
        assert rows == [
            [floor, "2.00", "1.00", "–"],
            [ours, "4.00", "2.00", "1.00"],
            [theirs, "6.00", "3.00", "1.50"],
        ]
