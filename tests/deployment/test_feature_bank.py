"""Banks filled from labelled images: the mathematics, and tools/build_feature_bank.py."""

import pytest
import torch
from data_folders import run_script, unique_name, write_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from train_net_runs import ROOT

from d2_ctxseg.checkpoint import load_weights
from d2_ctxseg.classifiers import FeatureBankClassifier
from d2_ctxseg.deployment.feature_bank import class_shares, extend_bank, fill_bank
from d2_ctxseg.deployment.predictor import SemSegPredictor
from d2_ctxseg.deployment.prototype_extension import SupportPixels
from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.engine.setup import refuse_untrained_classifier
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_model

TOOL = ROOT / "tools" / "build_feature_bank.py"
ADD = ROOT / "tools" / "add_classes.py"
CLASSES = ["room", "white", "amber", "rose", "green", "blue"]


class TestClassShares:
    @settings(max_examples=30, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        seed=st.integers(0, 1000),
    )
    def test_are_counts_of_the_cells(self, size, grid, seed):
        grid = min(grid[0], size[0]), min(grid[1], size[1])
        labels = torch.randint(-1, 4, size, generator=torch.Generator().manual_seed(seed))
        shares, largest = class_shares(labels, grid, 3)
        for cell in range(grid[0] * grid[1]):
            own = [
                labels[y, x].item()
                for y in range(size[0])
                for x in range(size[1])
                if (y * grid[0] // size[0], x * grid[1] // size[1]) == divmod(cell, grid[1])
            ]
            counts = [own.count(k) for k in range(3)]
            known = sum(counts)
            expected = [count / known for count in counts] if known else [0.0] * 3
            assert shares[cell].tolist() == pytest.approx(expected)
            assert largest[cell] == (counts.index(max(counts)) if known else -1)


def support_of(labels, num_classes, max_pixels=100, channels=4):
    support = SupportPixels(num_classes, max_pixels=max_pixels)
    labels = torch.tensor(labels)
    shares = torch.nn.functional.one_hot(labels, num_classes).float()
    support.add(torch.randn(len(labels), channels), labels, shares)
    return support


class TestBank:
    def test_weights_make_up_for_what_the_cap_left_out_and_are_per_image(self):
        classifier, support = FeatureBankClassifier(4, 2), support_of([0] * 6 + [1] * 2, 2, 3)
        support.add(torch.randn(2, 4), torch.tensor([1, 1]), torch.eye(2)[[1, 1]])
        fill_bank(classifier, support)
        kept = classifier.shares.argmax(dim=1)
        assert kept.bincount().tolist() == [3, 3]
        assert classifier.weights[kept == 0].sum().item() == pytest.approx(6 / 2)
        assert classifier.weights[kept == 1].sum().item() == pytest.approx(4 / 2)

    def test_of_images_without_a_label_is_refused(self):
        support = SupportPixels(2)
        support.add(torch.randn(3, 4), torch.full((3,), -1), torch.zeros(3, 2))
        with pytest.raises(ValueError, match="1 image without a labelled pixel"):
            fill_bank(FeatureBankClassifier(4, 2), support)

    def test_extended_has_both_and_finds_the_new_class(self):
        old = FeatureBankClassifier(4, 2)
        fill_bank(old, support_of([0, 1, 1], 2))
        support = support_of([0, 2, 2], 3)
        order = [2, 0, 1]
        new = extend_bank(old, support, order=order)
        assert (old.num_classes, new.num_classes, len(new.features)) == (2, 3, 6)
        assert torch.equal(new.features[:3], old.features)
        pixels = new.features.T[None, :, :, None]
        predicted = torch.tensor(order)[new(pixels).argmax(dim=1).flatten()]
        assert predicted.tolist() == [0, 1, 1, 0, 2, 2]

    def test_other_orders_and_fewer_classes_are_refused(self):
        classifier, support = FeatureBankClassifier(4, 2), support_of([0, 1], 3)
        with pytest.raises(ValueError, match="not a permutation of 0 to 2"):
            extend_bank(classifier, support, order=[0, 1, 1])
        with pytest.raises(ValueError, match="1 class, fewer than the classifier.s 2"):
            extend_bank(classifier, support_of([0], 1))


OPTIONS = [
    *["MODEL.META_ARCHITECTURE", "FeatureBankSegmentor", "MODEL.ENCODER.NAME", "tu-resnet10t"],
    *["MODEL.SEM_SEG_HEAD.NAME", "FCNHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res3','res5']"],
    *["MODEL.FCN_HEAD.NUM_CONVS", 0, "MODEL.FCN_HEAD.CONCAT_INPUT", "False"],
    *["MODEL.CLASSIFIER.FEATURE_BANK.SIZE", 600],
]


def build(config, output, *arguments, opts=()):
    """Run the tool; its exit code."""
    paths = ["--config-file", config, "--output", output]
    return run_script(TOOL, *paths, *arguments, "--opts", *OPTIONS, *opts)


@pytest.fixture
def bank(tiny_run, tmp_path):
    """The config of a model whose bank was filled from ContextShapes."""
    assert build(tiny_run, tmp_path / "bank") == 0
    return tmp_path / "bank" / "config.yaml"


class TestTool:
    def test_its_model_is_evaluated_and_predicts(self, bank):
        """Random features of a network know colours: better than chance on classes of colours."""
        cfg = setup_config(str(bank), [], for_inference=True)
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        size = cfg.MODEL.CLASSIFIER.FEATURE_BANK.SIZE
        assert len(model.classifier.features) == size <= 600
        assert Trainer.test(cfg, model)["sem_seg"]["mIoU"] > 20
        image = torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8).numpy()
        assert SemSegPredictor(cfg)(image).shape == (40, 60)

    def test_a_training_is_refused(self, tiny_run):
        with pytest.raises(UserError, match="is not trained: .d2-ctxseg build-bank. fills"):
            refuse_untrained_classifier(setup_config(str(tiny_run), OPTIONS))
        refuse_untrained_classifier(setup_config(str(tiny_run), []))

    def test_takes_some_images_of_the_dataset(self, tiny_run, tmp_path):
        assert build(tiny_run, tmp_path / "new", "--num-images", 1) == 0
        assert "in the bank" in (tmp_path / "new" / "log.txt").read_text()

    def test_another_model_has_no_bank(self, tiny_run, tmp_path, capsys):
        opts = ["MODEL.META_ARCHITECTURE", "LinearSegmentor"]
        assert build(tiny_run, tmp_path / "new", opts=opts) == 1
        assert "'FeatureBankSegmentor'" in capsys.readouterr().err

    def test_classes_are_added_by_adding_images(self, tiny_run, tmp_path, context_shapes_root):
        """A bank without rose, and then with it: its class is found, and the model is whole."""
        name, old = unique_name(), [c for c in CLASSES if c != "rose"]
        folder = write_yaml(
            tmp_path / name,
            name=name,
            root=str(context_shapes_root / "context_shapes"),
            splits={"train": {"images": "images/train", "labels": "labels/train"}},
            classes=old,
            id_map={i: old.index(c) if c in old else "ignore" for i, c in enumerate(CLASSES)},
        )
        opts = ["DATASETS.FOLDERS", [str(folder)], "DATASETS.TRAIN", [f"{name}_sem_seg_train"]]
        opts += ["DATASETS.TEST", [f"{name}_sem_seg_train"], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5]
        assert build(tiny_run, tmp_path / "old", opts=opts) == 0
        arguments = ["--config-file", tmp_path / "old/config.yaml"]
        arguments += ["--weights", tmp_path / "old/model_final.pth"]
        arguments += ["--images", "context_shapes_sem_seg_train", "--output", tmp_path / "new"]
        assert run_script(ADD, *arguments) == 0
        cfg = setup_config(str(tmp_path / "new/config.yaml"), [], for_inference=True)
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        results = Trainer.test(cfg, model)["sem_seg"]
        assert results["IoU-rose"] > 5 and results["IoU-room"] > 20

    def test_a_bank_is_not_overwritten(self, bank, capsys):
        assert build(bank, bank.parent) == 1
        assert "already exists" in capsys.readouterr().err
