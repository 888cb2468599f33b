"""configs/: every leaf loads, is what its name says, builds and trains."""

from functools import cache
from pathlib import Path

import pytest
import torch

from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.modeling.build_classifier import build_classifier
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import META_ARCH_REGISTRY, build_model

CONFIGS = Path(__file__).parents[1] / "configs"
# models/ holds the parts without a dataset; upstream/ has a test of its own.
LEAVES = sorted(
    path
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in ("models", "upstream") and not path.name.startswith("Base-")
)
META_ARCHITECTURES = {
    "linear": "LinearSegmentor",
    "context_aware": "ContextAwareSegmentor",
    # Before those that end alike.
    "one_learned_prototype": "LearnedPrototypeSegmentor",
    "learned_prototype": "LearnedPrototypeSegmentor",
    "one_prototype": "PrototypeSegmentor",
    "semantic_spatial": "SemanticSpatialSegmentor",
    "prototype": "PrototypeSegmentor",
    "explicit_class": "ExplicitClassSegmentor",
    "gaussian_mixture": "GaussianMixtureSegmentor",
    "feature_bank": "FeatureBankSegmentor",
}
# Two papers with this model and dataset: the vanilla config has the other one's schedule.
OTHER_SCHEDULE = ("coco_stuff_10k/upernet_swin_t_semantic_spatial",)
# Not for real steps in the tests' time and memory.
LARGE = ("swin_l", "vit_l", "upernet_swin_b")
DIVISOR = 64  # a side that every encoder takes
# Prototype parameters in millions, in brackets in Table 4 of Zhou et al. (CVPR 2022), by folder: of
# one and of ten learned prototypes a class.
TABLE_4 = {
    "ade20k": (0.12, 1.2),
    "ade20k_full_300": (0.23, 2.3),
    "ade20k_full_500": (0.39, 3.9),
    "ade20k_full_700": (0.54, 5.4),
    "ade20k_full": (0.65, 6.5),
}


def leaf_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def classifier_of(path: Path) -> str:
    return next(name for name in META_ARCHITECTURES if path.stem.endswith(f"_{name}"))


@cache
def load(path: Path, *overrides: str):
    return setup_config(str(path), ["MODEL.DEVICE", "cpu", *overrides], for_inference=True)


def batch(cfg, size: int = DIVISOR) -> list[dict]:
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    return [
        {
            "image": torch.randint(0, 255, (3, size, size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, num_classes, (size, size)),
        }
        for _ in range(2)
    ]


def sibling(path: Path) -> Path:
    """The first leaf with the same model and classifier."""
    return next(leaf for leaf in LEAVES if leaf.stem == path.stem)


def is_large(path: Path) -> bool:
    return any(name in path.stem for name in LARGE)


def has_released_recipe(path: Path) -> bool:
    """On Cityscapes FCNs are as ProtoSeg released them, not as on other datasets."""
    return path.parent.name == "cityscapes" and path.stem.startswith("fcn_")


def is_built(path: Path) -> bool:
    """On other datasets the number of classes is all that changes in a model, but for few."""
    if "_one_" in path.stem or path.stem.endswith("_feature_bank"):
        return False  # their ten are built; a bank is not trained
    is_first = path in (sibling(path), CONFIGS / "ade20k_full" / path.name)
    return is_first or has_released_recipe(path)


BUILT = [path for path in LEAVES if is_built(path)]
every_leaf = pytest.mark.parametrize("path", LEAVES, ids=leaf_id)


@every_leaf
class TestEveryLeaf:
    def test_loads_and_is_what_its_name_says(self, path):
        # setup_config refuses unknown keys, names and numbers of classes.
        cfg = load(path)
        assert f"output/{path.parent.name}/{path.stem}" == cfg.OUTPUT_DIR
        expected = META_ARCHITECTURES[classifier_of(path)]
        if path.stem == "segvit_vit_l_linear":  # classifies by itself, with learned tokens
            expected = "WholeHeadSegmentor"
        assert expected == cfg.MODEL.META_ARCHITECTURE

    def test_differs_from_its_vanilla_twin_in_the_classifier_only(self, path):
        twin = path.with_name(path.name.replace(classifier_of(path), "linear"))
        ours, vanilla = load(path).clone(), load(twin).clone()
        for cfg in (ours, vanilla):
            cfg.defrost()
            cfg.OUTPUT_DIR = cfg.MODEL.META_ARCHITECTURE = ""
            cfg.INPUT.SIZE_DIVISIBILITY_TEST = 1  # SSA-Seg tests on ADE20K in a way of its own
            cfg.MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS = ""
            if leaf_id(path) in OTHER_SCHEDULE:
                cfg.SOLVER.MAX_ITER = cfg.SOLVER.WARMUP_ITERS = cfg.SOLVER.CHECKPOINT_PERIOD = 0
                cfg.TEST.EVAL_PERIOD = 0
            for node in ("PROTOTYPE", "LEARNED_PROTOTYPE", "GAUSSIAN_MIXTURE", "FEATURE_BANK"):
                del cfg.MODEL.CLASSIFIER[node]
        assert ours == vanilla

    def test_has_the_same_model_as_on_other_datasets(self, path):
        if has_released_recipe(path):
            return
        ours, other = load(path).MODEL.clone(), load(sibling(path)).MODEL.clone()
        for model in (ours, other):
            model.defrost()
            model.SEM_SEG_HEAD.NUM_CLASSES = model.SEM_SEG_HEAD.IGNORE_VALUE = 0
            # 8 on ADE20K, as in the authors' config.
            model.CLASSIFIER.GAUSSIAN_MIXTURE.NUM_COMPONENTS = 0
        assert ours == other


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        ("ade20k/upernet_swin_t_context_aware", (False, False, True, "zero_if_predicted")),
        ("cityscapes/deeplabv3plus_r50_linear", (False, False, True, "zero_if_predicted")),
        ("camvid/fpn_resnet18_linear", (True, True, False, "left_out")),
    ],
)
def test_recipes_of_mmsegmentation_are_tested_as_there_and_others_as_in_detectron2(leaf, expected):
    cfg = load(CONFIGS / f"{leaf}.yaml")
    test = cfg.TEST
    found = cfg.INPUT.ANTIALIAS, test.PAD, test.AUG.FROM_ORIGINAL, test.ABSENT_CLASSES
    assert found == expected


@pytest.mark.parametrize(
    "model", ["segformer_mit_b4", "segvit_vit_l", "upernet_swin_t", "ecenet_swin_b", "fcn_r101"]
)
def test_norms_decay_as_in_the_authors_runs(model):
    """With AdamW those of the backbone do not, and those of the head do; with SGD all do."""
    solver = load(CONFIGS / "ade20k" / f"{model}_linear.yaml").SOLVER
    if solver.OPTIMIZER == "SGD":
        assert solver.WEIGHT_DECAY_NORM == solver.WEIGHT_DECAY
    else:
        assert solver.WEIGHT_DECAY_NORM == 0 and solver.DECAY_HEAD_NORMS


@pytest.mark.parametrize("folder", TABLE_4)
class TestCellsOfTable4:
    def parameters(self, folder, classifier):
        """Of the classifier of a cell, in millions, and its number of prototypes."""
        path = CONFIGS / folder / f"segformer_mit_b2_{classifier}.yaml"
        cfg = load(path)
        predictor = torch.nn.Conv2d(768, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)
        fixed = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).classifier_class
        classifier = build_classifier(cfg, predictor, fixed)
        return sum(p.numel() for p in classifier.parameters()) / 1e6, classifier.num_prototypes

    def test_learned_prototypes_are_as_many_parameters_as_it_says(self, folder):
        for classifier, expected, number in zip(
            ("one_learned_prototype", "learned_prototype"), TABLE_4[folder], (1, 10)
        ):
            counted = self.parameters(folder, classifier)
            assert counted == (pytest.approx(expected, abs=0.1), number)

    def test_the_others_are_none(self, folder):
        for classifier, number in (("one_prototype", 1), ("prototype", 10)):
            # The norms of features and scores stay.
            assert self.parameters(folder, classifier) == (pytest.approx(0, abs=0.01), number)


@pytest.mark.parametrize("model", ["fcn_hrnet_w48", "fcn_r101"])
@pytest.mark.parametrize("classifier", ["linear", "prototype"])
def test_fcns_on_cityscapes_have_the_recipe_that_protoseg_released(model, classifier):
    cfg = load(CONFIGS / "cityscapes" / f"{model}_{classifier}.yaml")
    weights = cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS
    assert (len(weights), weights[0], weights[18]) == (19, 0.8373, 1.0507)
    assert cfg.MODEL.CLASSIFIER.ALIGN_CORNERS and cfg.MODEL.CLASSIFIER.DROPOUT == 0.1
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MIN_LR) == (80000, 8, 0.0)
    assert (cfg.SOLVER.POLY_LR_POWER, cfg.SOLVER.WEIGHT_DECAY) == (0.9, 0.0005)
    assert (tuple(cfg.INPUT.ASPECT_RANGE), cfg.INPUT.BRIGHTNESS_SHIFT) == ((0.9, 1.1), 10)
    assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 1.0 and not cfg.INPUT.COLOR_AUG_SSD
    assert cfg.MODEL.FCN_HEAD.KERNEL_SIZE == 3
    is_hrnet = model == "fcn_hrnet_w48"
    assert ("BGR" if is_hrnet else "RGB") == cfg.INPUT.FORMAT
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    projection = cfg.MODEL.CLASSIFIER.PROTOTYPE.PROJECTION
    assert projection == (is_hrnet and classifier == "prototype")


def assert_every_parameter_learns(model: torch.nn.Module) -> None:
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in BUILT if not is_large(p)], ids=leaf_id)
def test_trains_for_one_step_and_predicts(path):
    cfg = load(path)
    model = build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    losses = model(batch(cfg))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert_every_parameter_learns(model)
    optimizer.step()
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after))
    with torch.no_grad():
        output = model.eval()(batch(cfg)[:1])[0]["sem_seg"]
    assert output.shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, DIVISOR, DIVISOR)
    assert torch.isfinite(output).all()


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in BUILT if is_large(p)], ids=leaf_id)
def test_the_largest_train_where_nothing_is_computed(path):
    """On the meta device, which works out shapes."""
    cfg = load(path, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        model = build_model(cfg).train()
        images = torch.zeros(2, 3, DIVISOR, DIVISOR)
        labels = torch.zeros(2, DIVISOR, DIVISOR, dtype=torch.int64)
        sum(model.losses(images, labels).values()).backward()
        logits = model.eval().logits(images)
    assert_every_parameter_learns(model)
    assert logits.shape == (2, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, DIVISOR, DIVISOR)


def test_a_mistyped_key_in_a_leaf_suggests_the_nearest(tmp_path):
    path = CONFIGS / "ade20k/fcn_r101_linear.yaml"
    text = path.read_text(encoding="utf-8")
    text = text.replace('"../', f'"{CONFIGS}/').replace('"Base-', f'"{path.parent}/Base-')
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(text + "SOLVER:\n  MAX_ITERS: 100\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no config key 'SOLVER.MAX_ITERS'.*'SOLVER.MAX_ITER'"):
        load(leaf)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("DATASETS.TRAIN", "('ade20k_semseg_train',)"), "Did you mean 'ade20k_sem_seg_train'"),
        (("MODEL.SEM_SEG_HEAD.NAME", "FCNHaed"), "Did you mean 'FCNHead'"),
        (("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "151"), "has 150 classes. Set it to 150"),
    ],
)
def test_a_mistyped_value_too(override, message):
    path = CONFIGS / "ade20k/fcn_r101_linear.yaml"
    with pytest.raises(UserError, match=message):
        load(path, *override)
