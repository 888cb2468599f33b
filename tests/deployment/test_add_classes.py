"""New classes for a trained PrototypeSegmentor: the mathematics, and tools/add_classes.py."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_folders import run_script, unique_name, write_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from train_net_runs import ROOT

from d2_ctxseg import load_segmentor
from d2_ctxseg.checkpoint import (
    FittedTemperature,
    load_weights,
    read_state_dict,
    write_temperatures,
)
from d2_ctxseg.classifiers import PrototypeClassifier
from d2_ctxseg.classifiers.clustering import sinkhorn_log_plan
from d2_ctxseg.commands.add_classes import spread_over_classes
from d2_ctxseg.commands.model_config import run_weights
from d2_ctxseg.data import ContextShapesOptions, generate_context_shapes
from d2_ctxseg.deployment.prototype_extension import (
    PixelSample,
    SupportPixels,
    add_classes,
    calibrate_offsets,
    cluster_prototypes,
    extend_classifier,
)
from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.engine.calibration import with_fitted_temperatures
from detectron2.modeling import build_model

TOOL = ROOT / "tools" / "add_classes.py"
few_examples = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**16)


def unit_vectors(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def around(centers, number, spread=0.05):
    """``number`` unit vectors near each of the centres (M, C), in turn: (M * number, C)."""
    noise = spread * torch.randn(len(centers), number, centers.shape[1])
    return F.normalize(centers[:, None] + noise, dim=2).flatten(0, 1)


def make_classifier(num_classes=3, num_prototypes=4, channels=16):
    """A classifier with prototypes of all directions, and scores of uneven weights."""
    classifier = PrototypeClassifier(channels, num_classes, num_prototypes=num_prototypes).eval()
    classifier.prototypes.copy_(unit_vectors(num_classes, num_prototypes, channels, seed=5))
    torch.nn.init.uniform_(classifier.score_norm.weight, 0.9, 1.2)
    torch.nn.init.uniform_(classifier.score_norm.bias, -0.2, 0.2)
    return classifier


class TestSupportPixels:
    def test_keeps_everything_below_the_cap(self):
        support = SupportPixels(num_classes=3, max_pixels=100)
        with pytest.raises(ValueError, match="add at least one image"):
            support.sample()
        first, second = unit_vectors(5, 4), unit_vectors(3, 4, seed=1)
        support.add(first, torch.tensor([0, 2, 2, 255, -1]))
        support.add(second, torch.tensor([2, 0, 3]))
        sample = support.sample()
        assert (support.num_images, support.counts.tolist()) == (2, [2, 0, 3])
        assert sample.labels.tolist() == [0, 2, 2, 2, 0]
        assert torch.equal(sample.embeddings, torch.cat([first[:3], second[:2]]))
        assert sample.weights.tolist() == [1.0] * 5

    @few_examples
    @given(st.lists(st.lists(st.integers(0, 3), max_size=40), min_size=1, max_size=4), seeds)
    def test_weights_make_up_for_what_the_cap_left_out(self, images, seed):
        support = SupportPixels(num_classes=4, max_pixels=5, seed=seed)
        for labels in images:
            support.add(unit_vectors(len(labels), 3), torch.tensor(labels, dtype=torch.uint8))
        sample = support.sample()
        every = torch.tensor(sum(images, []), dtype=torch.int64).bincount(minlength=4)
        assert torch.equal(support.counts, every)
        assert torch.equal(sample.labels.bincount(minlength=4), every.clamp(max=5))
        weight = torch.zeros(4, dtype=torch.float64).index_add(0, sample.labels, sample.weights)
        torch.testing.assert_close(weight, every.double())

    def test_the_sample_of_a_class_is_uniform_over_all_images(self):
        """An image with 1000 pixels and one with 250: a fifth of the sample is of the latter."""
        shares = []
        for seed in range(20):
            support = SupportPixels(num_classes=1, max_pixels=100, seed=seed)
            for value, number in ((0.0, 1000), (1.0, 250)):
                support.add(torch.full((number, 1), value), torch.zeros(number))
            shares.append(support.sample().embeddings.mean().item())
        assert np.mean(shares) == pytest.approx(0.2, abs=0.03)


class TestClustering:
    def test_finds_the_groups_of_every_class(self):
        centers = unit_vectors(2, 3, 32)
        pixels = torch.cat([around(centers[0], 20), around(centers[1], 30)])
        labels, mixed = torch.tensor([0] * 60 + [1] * 90), torch.randperm(150)
        prototypes = cluster_prototypes(pixels[mixed], labels[mixed], 2, 3)
        for found, expected in zip(prototypes, centers):
            assert (expected @ found.T).amax(dim=1).min() > 0.98

    @few_examples
    @given(seeds, st.integers(1, 5), st.integers(1, 3), st.sampled_from(["cosine", "euclidean"]))
    def test_a_prototype_is_the_mean_of_the_pixels_assigned_to_it(self, seed, m, j, distance):
        pixels = unit_vectors(60, 6, seed=seed, dtype=torch.float64)
        labels = torch.arange(60) % j
        prototypes = cluster_prototypes(pixels, labels, j, m, distance=distance, max_rounds=200)
        assert prototypes.shape == (j, m, 6) and prototypes.dtype == torch.float64
        torch.testing.assert_close(prototypes.norm(dim=2), torch.ones(j, m, dtype=torch.float64))
        for k in range(j):
            own = pixels[labels == k]
            similarity = own @ prototypes[k].T
            if distance == "euclidean":
                similarity = -torch.cdist(own, prototypes[k])
            plan = sinkhorn_log_plan(similarity, torch.zeros(len(own), dtype=torch.int64), 1)
            for i in plan.argmax(dim=1).unique():
                mean = F.normalize(own[plan.argmax(dim=1) == i].sum(dim=0), dim=0)
                torch.testing.assert_close(prototypes[k, i], mean, rtol=1e-4, atol=1e-4)

    def test_prototypes_repeat_where_there_are_fewer_pixels(self):
        pixels = unit_vectors(3, 8)
        prototypes = cluster_prototypes(pixels, torch.tensor([0, 1, 1]), 2, 5)
        torch.testing.assert_close(prototypes[0], pixels[:1].expand(5, 8))
        assert prototypes[1].isfinite().all()
        assert (prototypes[1] @ pixels[1:].T).amax(dim=0).min() > 0.5
        with pytest.raises(ValueError, match=r"No pixels of classes \[1\]"):
            cluster_prototypes(pixels, torch.tensor([0, 0, 2]), 3, 5)


class TestExtendedClassifier:
    new = unit_vectors(2, 4, 16, seed=8)

    def test_old_prototypes_and_weights_are_kept(self):
        classifier = make_classifier()
        norm, offsets = classifier.score_norm, torch.tensor([0.5, -0.5])
        extended = extend_classifier(classifier, self.new, offsets=offsets)
        assert torch.equal(extended.prototypes, torch.cat([classifier.prototypes, self.new]))
        assert torch.equal(extended.score_norm.weight[:3], norm.weight)
        assert torch.equal(extended.score_norm.bias[:3], norm.bias)
        torch.testing.assert_close(extended.score_norm.bias[3:], norm.bias.mean() + offsets)
        assert (classifier.num_classes, len(classifier.prototypes)) == (3, 3)

    def test_a_permuted_order_permutes_the_logits(self):
        classifier, order = make_classifier(), [4, 0, 3, 2, 1]
        features = torch.randn(2, 16, 3, 5)
        logits = extend_classifier(classifier, self.new)(features)
        permuted = extend_classifier(classifier, self.new, order=order)
        torch.testing.assert_close(permuted(features), logits[:, order])
        of_pixels = permuted.classify(classifier.embed(features))
        torch.testing.assert_close(of_pixels, logits[:, order].movedim(1, 3).flatten(0, 2))

    def test_with_equal_weights_the_order_of_the_old_classes_stays(self):
        """The mean and the variance of the scores change equally for all classes."""
        classifier = make_classifier()
        torch.nn.init.ones_(classifier.score_norm.weight)
        torch.nn.init.zeros_(classifier.score_norm.bias)
        pixels = unit_vectors(500, 16, seed=3)
        before = classifier.classify(pixels)
        after = extend_classifier(classifier, self.new).classify(pixels)
        assert torch.equal(before.argsort(dim=1), after[:, :3].argsort(dim=1))

    def test_is_a_classifier_of_more_classes_and_can_be_trained_on(self):
        extended = extend_classifier(make_classifier(), self.new).train()
        PrototypeClassifier(16, 5, num_prototypes=4).load_state_dict(extended.state_dict())
        losses = extended.losses(torch.randn(1, 16, 8, 8), torch.randint(5, (1, 16, 16)))
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in extended.parameters())
        assert extended(torch.randn(1, 16, 2, 2)).shape == (1, 5, 2, 2)

    def test_other_shapes_and_orders_are_refused(self):
        classifier = make_classifier()
        with pytest.raises(ValueError, match=r"shape \(2, 3, 16\), expected \(new classes, 4, 16"):
            extend_classifier(classifier, self.new[:, :3])
        with pytest.raises(ValueError, match="not a permutation of 0 to 4"):
            extend_classifier(classifier, self.new, order=[0, 1, 2, 3, 3])


def mean_iou(logits, labels, weights):
    """A plain loop over the classes that are in the labels."""
    predicted, values = logits.argmax(dim=1), []
    for k in labels.unique():
        of_class, found = labels == k, predicted == k
        values.append(weights[of_class & found].sum() / weights[of_class | found].sum())
    return torch.stack(values).mean().item()


class TestCalibration:
    @few_examples
    @given(seeds)
    def test_no_other_recall_has_a_greater_mean_iou(self, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(4, (80,), generator=generator)
        labels[:2] = torch.tensor([0, 3])
        logits = torch.randn(80, 4, generator=generator) + 1.5 * F.one_hot(labels, 4)
        weights = torch.rand(80, generator=generator, dtype=torch.float64) + 0.5
        (offset,) = calibrate_offsets(logits, labels, weights, 1)
        new = torch.tensor([0.0, 0, 0, 1])
        best = mean_iou(logits + offset * new, labels, weights)
        for other in (logits[:, :3].amax(dim=1) - logits[:, 3])[labels == 3] + 1e-5:
            assert mean_iou(logits + other * new, labels, weights) <= best + 1e-6

    def test_several_new_classes_gain(self):
        labels, weights = torch.randint(5, (400,)), torch.ones(400, dtype=torch.float64)
        logits = torch.randn(400, 5) + 2 * F.one_hot(labels, 5)
        logits += torch.tensor([0.0, 0, 0, 3, -3])
        offsets = calibrate_offsets(logits, labels, weights, 2)
        assert offsets[0] < -2 and offsets[1] > 2
        after = mean_iou(logits + F.pad(offsets, (3, 0)), labels, weights)
        assert after > mean_iou(logits, labels, weights) + 0.2

    def test_nothing_changes_where_nothing_can_be_gained_or_known(self):
        ones, labels = torch.ones(40), torch.arange(40) % 4
        right = 5.0 * F.one_hot(labels, 4)
        assert calibrate_offsets(right, labels, ones, 2).tolist() == [0, 0]
        logits = torch.randn(40, 4)
        without_own, without_old = torch.arange(40) % 3, torch.full((40,), 3)
        assert calibrate_offsets(logits, without_own, ones, 1).tolist() == [0]
        assert calibrate_offsets(logits, without_old, ones, 1).tolist() == [0]


class TestAddedClasses:
    def test_the_seeds_decide_the_result(self):
        def prototypes(seed):
            support = SupportPixels(num_classes=4, max_pixels=50, seed=seed)
            support.add(unit_vectors(400, 16), torch.arange(400) % 4)
            return add_classes(make_classifier(), support.sample(), 1, seed=seed).prototypes

        assert torch.equal(prototypes(1), prototypes(1))
        assert not torch.equal(prototypes(1), prototypes(2))

    def test_a_class_that_the_embedding_tells_apart_is_found(self):
        classifier = make_classifier(channels=64)
        new = around(unit_vectors(2, 64, seed=9), 50, spread=0.02)
        old = around(classifier.prototypes[:, 0], 100, spread=0.02)
        labels = torch.tensor([3, 4, 0, 0, 1, 1, 2, 2]).repeat_interleave(50)
        sample = PixelSample(torch.cat([new, old]), labels, torch.ones(400, dtype=torch.float64))
        order = [3, 0, 1, 4, 2]
        extended = add_classes(classifier, sample, 2, order=order)
        predicted = torch.tensor(order)[extended.classify(sample.embeddings).argmax(1)]
        assert (predicted == labels).float().mean() > 0.99
        assert not extended.prototypes.requires_grad
        assert torch.equal(extended.prototypes[[1, 2, 4]], classifier.prototypes)


CLASSES = ["room", "white", "amber", "rose", "green", "blue"]
NEW = "rose"
OLD = [name for name in CLASSES if name != NEW]


@pytest.fixture
def shapes(tmp_path, context_shapes_root):
    """Writes a YAML over the small ContextShapes; gives its path and the names of its splits."""

    def write(classes, id_map=None):
        name, splits = unique_name(), ("train", "val")
        path = write_yaml(
            tmp_path / name,
            name=name,
            root=str(context_shapes_root / "context_shapes"),
            splits={s: {"images": f"images/{s}", "labels": f"labels/{s}"} for s in splits},
            classes=classes,
            id_map=id_map,
        )
        return path, *(f"{name}_sem_seg_{split}" for split in splits)

    return write


@pytest.fixture
def old_run(tiny_run, shapes, tmp_path):
    """An untrained model of five classes, in whose data the sixth is ignored."""
    id_map = {i: OLD.index(c) if c in OLD else "ignore" for i, c in enumerate(CLASSES)}
    path, train, val = shapes(OLD, id_map)
    opts = ["MODEL.META_ARCHITECTURE", "PrototypeSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5]
    opts += ["MODEL.CLASSIFIER.PROTOTYPE.MOMENTUM", 0.9, "MODEL.AUXILIARY_HEAD.ENABLED", True]
    opts += ["MODEL.ENCODER.NAME", "tu-resnet10t"]
    opts += ["DATASETS.FOLDERS", [str(path)], "DATASETS.TRAIN", [train], "DATASETS.TEST", [val]]
    weights = tmp_path / "old.pth"
    model = build_model(setup_config(str(tiny_run), opts))
    torch.save({"model": model.state_dict()}, weights)
    return SimpleNamespace(config=tiny_run, opts=opts, weights=weights, images=train)


def add(run, images, output, *arguments, opts=()):
    """Run the tool; its exit code."""
    options = ["--config-file", run.config, "--weights", run.weights, "--images", images]
    return run_script(TOOL, *options, "--output", output, *arguments, "--opts", *run.opts, *opts)


def results_in(folder):
    """The results of the models that were evaluated into a folder, in turn."""
    return json.loads((folder / "evaluation.json").read_text()).values()


class TestTool:
    train = "context_shapes_sem_seg_train"

    def test_model_and_config_fit_each_other(self, old_run, shapes, tmp_path):
        folder, train, val = shapes(CLASSES)
        output, arguments = tmp_path / "new", ("--folder", folder, "--num-images", 3)
        assert add(old_run, train, output, *arguments, "--evaluate", val) == 0

        cfg = setup_config(str(output / "config.yaml"), [])
        assert (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) == (train, val)
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        assert model.auxiliary_head is None
        old, new = (read_state_dict(path) for path in (old_run.weights, cfg.MODEL.WEIGHTS))
        key = "classifier.prototypes"
        assert torch.equal(new[key][[CLASSES.index(name) for name in OLD]], old[key])
        for name in (name for name in new if not name.startswith("classifier.")):
            assert torch.equal(old[name], new[name])

        before, after = (metrics[val]["sem_seg"] for metrics in results_in(output))
        assert before[f"IoU-{NEW}"] == before["mIoU-new"] == 0
        for metrics in (before, after):
            ious = [metrics[f"IoU-{name}"] for name in OLD]
            assert metrics["mIoU-old"] == pytest.approx(np.mean(ious))
            assert metrics["mIoU-old-without-new-pixels"] >= metrics["mIoU-old"]
        log = (output / "log.txt").read_text()
        assert f"| {NEW} (new)" in log and "mean of the old" in log

    def test_a_temperature_of_the_old_classes_is_left_behind(self, old_run, shapes, tmp_path):
        fitted = FittedTemperature(1.7, "val", 100, 0.6, 0.5)
        write_temperatures(old_run.weights, {"sem_seg": fitted})
        folder, train, _ = shapes(CLASSES)
        output = tmp_path / "new"
        opts = ["TEST.AUG.TEMPERATURE", 2.0]
        assert add(old_run, train, output, "--folder", folder, "--num-images", 3, opts=opts) == 0
        cfg = with_fitted_temperatures(setup_config(str(output / "config.yaml"), []))
        assert cfg.TEST.TEMPERATURE is None and cfg.TEST.AUG.TEMPERATURE is None
        log = (output / "log.txt").read_text()
        assert f"until you run d2-ctxseg calibrate --run {output}" in log

    def test_a_run_can_be_named_and_what_is_made_is_a_run(self, old_run, shapes, tmp_path):
        folder, train, val = shapes(CLASSES)
        run, output = tmp_path / "run", tmp_path / "new"
        run.mkdir()
        shutil.copyfile(old_run.weights, run / "model_final.pth")
        (run / "config.yaml").write_text(setup_config(str(old_run.config), old_run.opts).dump())
        command = ["--run", run, "--images", train, "--output", output, "--folder", folder]
        assert run_script(TOOL, *command, "--num-images", 3) == 0
        segmentor = load_segmentor(output, device="cpu")
        assert segmentor.classes == tuple(CLASSES)
        assert run_weights(output) == output / "model_extended.pth"

    def test_the_result_is_not_overwritten(self, old_run, tmp_path, capsys):
        (tmp_path / "model_extended.pth").write_bytes(b"precious")
        assert add(old_run, self.train, tmp_path) == 1
        assert "already exists" in capsys.readouterr().err
        assert (tmp_path / "model_extended.pth").read_bytes() == b"precious"

    @pytest.mark.parametrize(
        "classes, message",
        [
            (["rooms", *CLASSES[1:]], "lacks the model's class 'room'. Did you mean 'rooms'?"),
            ([*CLASSES, "violet"], "without a pixel of the new class 'violet'"),
        ],
    )
    def test_wrong_classes_are_reported(self, old_run, shapes, tmp_path, capsys, classes, message):
        folder, train, _ = shapes(classes)
        assert add(old_run, train, tmp_path / "out", "--folder", folder) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "model_extended.pth").exists()

    @pytest.mark.parametrize(
        "images, arguments, message",
        [
            (None, (), "has no new class"),
            ("context_shape_sem_seg_train", (), "Did you mean 'context_shapes_sem_seg_train'"),
            (train, ("--evaluate", "camvid_sem_seg_val"), "other classes"),
        ],
    )
    def test_mistakes_are_explained(self, old_run, tmp_path, capsys, images, arguments, message):
        assert add(old_run, images or old_run.images, tmp_path / "out", *arguments) == 1
        assert message in capsys.readouterr().err

    def test_a_model_without_prototypes_is_refused(self, old_run, tmp_path, capsys):
        opts = ["MODEL.META_ARCHITECTURE", "LinearSegmentor"]
        assert add(old_run, self.train, tmp_path / "out", opts=opts) == 1
        assert "LinearSegmentor whose classifier has no prototypes" in capsys.readouterr().err

    def test_drawn_images_show_the_new_classes_evenly(self):
        shows = np.zeros((30, 3), dtype=bool)
        shows[:20, 0] = shows[18:21, 1] = True  # the third is nowhere
        for seed in range(5):
            chosen = spread_over_classes(shows, 6, np.random.default_rng(seed))
            assert len(set(chosen)) == 6
            assert shows[chosen].any(axis=1).all()
            assert shows[chosen, 1].sum() == 3
        assert len(spread_over_classes(shows, 100, np.random.default_rng(0))) == 21


@pytest.mark.slow
class TestTrainedModel:
    @pytest.fixture
    def context_shapes_root(self, tmp_path):
        options = ContextShapesOptions(num_train=100, num_val=20)
        generate_context_shapes(tmp_path / "context_shapes", options)
        return tmp_path

    def test_finds_a_class_and_keeps_the_others(self, old_run, shapes, tmp_path, monkeypatch):
        opts = [*old_run.opts, "SOLVER.MAX_ITER", 150, "SOLVER.IMS_PER_BATCH", 8]
        opts += ["SOLVER.BASE_LR", 0.002, "SOLVER.CHECKPOINT_PERIOD", 1000, "TEST.EVAL_PERIOD", 0]
        opts += ["INPUT.CROP.ENABLED", False, "INPUT.RATIO_RANGE", [1.0, 1.0]]
        Trainer(setup_config(str(old_run.config), opts)).train()
        old_run.weights = tmp_path / "output" / "model_final.pth"
        folder, train, val = shapes(CLASSES)
        output, arguments = tmp_path / "new", ("--folder", folder, "--num-images", 12)
        assert add(old_run, train, output, *arguments, "--evaluate", val) == 0

        before, after = (metrics[val]["sem_seg"] for metrics in results_in(output))
        # Calling every pixel rose has an IoU of 3.6, its share. Runs differ with the number of
        # threads: 17.8 to 20.9 were seen.
        assert before["mIoU-new"] == 0 and after["mIoU-new"] > 10
        for metric in ("mIoU-old", "mIoU-old-without-new-pixels"):
            assert after[metric] > before[metric] - 5

        config = ("--config-file", output / "config.yaml")
        options = ("--eval-only", "OUTPUT_DIR", tmp_path / "again")
        assert run_script(ROOT / "train_net.py", *config, *options) == 0
        (again,) = results_in(tmp_path / "again")
        assert again[val]["sem_seg"]["mIoU"] == pytest.approx(after["mIoU"])
        paths = ("--input", tmp_path / "context_shapes/images/val/0000.png")
        paths += ("--output", tmp_path / "picture.png")
        assert run_script(ROOT / "demo" / "demo.py", *config, *paths) == 0
        assert (tmp_path / "picture.png").stat().st_size > 0
