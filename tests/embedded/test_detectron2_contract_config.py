"""What this project relies on in Detectron2's config system, on either runtime."""

import pytest

from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

# Detectron2's default of every key that the embedded runtime covers.
DEFAULTS = {
    "VERSION": 2,
    "MODEL.DEVICE": "cuda",
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 128,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 1.0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
    "MODEL.RESNETS.DEFORM_MODULATED": False,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": 1,
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.CROP.ENABLED": False,
    "INPUT.CROP.TYPE": "relative_range",
    "INPUT.CROP.SIZE": [0.9, 0.9],
    "INPUT.FORMAT": "BGR",
    "INPUT.MASK_FORMAT": "polygon",
    "DATASETS.TRAIN": (),
    "DATASETS.PROPOSAL_FILES_TRAIN": (),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "DATASETS.TEST": (),
    "DATASETS.PROPOSAL_FILES_TEST": (),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    "DATALOADER.NUM_WORKERS": 4,
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": 0.0,
    "DATALOADER.REPEAT_SQRT": True,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.MAX_ITER": 40000,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.BASE_LR_END": 0.0,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.STEPS": (30000,),
    "SOLVER.NUM_DECAYS": 3,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.RESCALE_INTERVAL": False,
    "SOLVER.CHECKPOINT_PERIOD": 5000,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "SOLVER.AMP.ENABLED": False,
    "TEST.EXPECTED_RESULTS": [],
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.AUG.ENABLED": False,
    "TEST.AUG.MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
    "TEST.AUG.MAX_SIZE": 4000,
    "TEST.AUG.FLIP": True,
    "TEST.PRECISE_BN.ENABLED": False,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "OUTPUT_DIR": "./output",
    "SEED": -1,
    "CUDNN_BENCHMARK": False,
    "FLOAT32_PRECISION": "",
    "VIS_PERIOD": 0,
    "GLOBAL.HACK": 1.0,
}

DEEPLAB_DEFAULTS = {
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "hard_pixel_mining",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [48],
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 256,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": False,
    "MODEL.RESNETS.RES4_DILATION": 1,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
}

# What Detectron2 has beyond DEFAULTS.
BOXES_AND_INSTANCES = (
    "MODEL.LOAD_PROPOSALS",
    "MODEL.MASK_ON",
    "MODEL.KEYPOINT_ON",
    "MODEL.PROPOSAL_GENERATOR.",
    "MODEL.ANCHOR_GENERATOR.",
    "MODEL.RPN.",
    "MODEL.ROI_",
    "MODEL.PANOPTIC_FPN.",
    "MODEL.RETINANET.",
    "TEST.KEYPOINT_OKS_SIGMAS",
)


def flatten(node, prefix=""):
    """{"SOLVER.BASE_LR": 0.001, ...} without the keys of boxes and instances."""
    leaves = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            leaves.update(flatten(value, f"{prefix}{key}."))
        elif not (prefix + key).startswith(BOXES_AND_INSTANCES):
            leaves[prefix + key] = value
    return leaves


def typed(value):
    """The value with its type, and the types of its elements: () is not [], 1 is not 1.0."""
    if isinstance(value, list | tuple):
        return type(value), [typed(element) for element in value]
    return type(value), value


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


class TestDefaults:
    def test_the_covered_keys_have_detectron2s_values_and_types(self):
        found = {key: typed(value) for key, value in flatten(get_cfg()).items()}
        assert found == {key: typed(value) for key, value in DEFAULTS.items()}

    def test_deeplab_adds_its_keys(self):
        cfg = get_cfg()
        add_deeplab_config(cfg)
        added = {key: flatten(cfg)[key] for key in set(flatten(cfg)) - set(DEFAULTS)}
        assert {key: typed(value) for key, value in added.items()} == {
            key: typed(value) for key, value in DEEPLAB_DEFAULTS.items()
        }

    def test_each_call_gives_a_config_of_its_own(self):
        changed = get_cfg()
        changed.MODEL.PIXEL_MEAN[0] = 0.0
        changed.SOLVER.STEPS = (1,)
        assert get_cfg().MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
        assert get_cfg().SOLVER.STEPS == (30000,)


class TestMerging:
    def test_file(self, write):
        cfg = get_cfg()
        cfg.merge_from_file(write("SOLVER:\n  BASE_LR: 0.02\n  STEPS: [10, 20]\nVERSION: 2\n"))
        assert cfg.SOLVER.BASE_LR == 0.02
        assert cfg.SOLVER.STEPS == (10, 20), "the default is a tuple, so a list becomes one"
        assert cfg.SOLVER.MAX_ITER == 40000

    def test_base_files_come_first_and_are_relative_to_the_file_that_names_them(self, write):
        write("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nSEED: 1\n", "deeper/grandparent.yaml")
        write("_BASE_: grandparent.yaml\nSOLVER: {BASE_LR: 0.25}\n", "deeper/parent.yaml")
        cfg = get_cfg()
        cfg.merge_from_file(write("_BASE_: deeper/parent.yaml\nSEED: 2\n"))
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (7, 0.25, 2)

    def test_of_several_base_files_the_last_wins(self, write):
        write("SEED: 1\nVIS_PERIOD: 1\n", "a.yaml")
        write("SEED: 2\n", "b.yaml")
        cfg = get_cfg()
        cfg.merge_from_file(write("_BASE_: [a.yaml, b.yaml]\n"))
        assert (cfg.SEED, cfg.VIS_PERIOD) == (2, 1)

    def test_command_line(self):
        cfg = get_cfg()
        cfg.merge_from_list(["SOLVER.BASE_LR", "0.1", "DATASETS.TRAIN", "('a', 'b')"])
        assert cfg.SOLVER.BASE_LR == 0.1
        assert cfg.DATASETS.TRAIN == ("a", "b")

    def test_a_dumped_config_loads_again_to_the_same_values(self, write):
        cfg = get_cfg()
        add_deeplab_config(cfg)
        cfg.SOLVER.STEPS = (1, 2)
        again = get_cfg()
        add_deeplab_config(again)
        again.merge_from_file(write(cfg.dump()))
        assert {key: typed(value) for key, value in flatten(again).items()} == {
            key: typed(value) for key, value in flatten(cfg).items()
        }

    def test_unknown_key_in_a_file_is_an_error(self, write):
        with pytest.raises(KeyError, match="Non-existent config key: SOLVER.BASE_LEARNING_RATE"):
            get_cfg().merge_from_file(write("SOLVER: {BASE_LEARNING_RATE: 0.1}\n"))

    def test_unknown_key_on_the_command_line_is_an_error(self):
        with pytest.raises(AssertionError, match="Non-existent key: SOLVER.BASE_LEARNING_RATE"):
            get_cfg().merge_from_list(["SOLVER.BASE_LEARNING_RATE", "0.1"])

    def test_wrong_type_is_an_error(self, write):
        with pytest.raises(ValueError, match="SOLVER.MAX_ITER"):
            get_cfg().merge_from_file(write("SOLVER: {MAX_ITER: many}\n"))

    def test_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(AssertionError, match="does not exist"):
            get_cfg().merge_from_file(str(tmp_path / "missing.yaml"))

    def test_version_from_the_future_is_an_error(self, write):
        with pytest.raises(AssertionError, match="3"):
            get_cfg().merge_from_file(write("VERSION: 3\n"))

    def test_unsafe_tags_are_refused_if_asked(self, write):
        path = write("SEED: !!python/object/apply:builtins.len ['four']\n")
        with pytest.raises(Exception, match="python/object/apply:builtins.len"):
            get_cfg().merge_from_file(path, allow_unsafe=False)

    def test_a_frozen_config_cannot_be_changed(self):
        cfg = get_cfg()
        cfg.freeze()
        with pytest.raises(AttributeError, match="immutable"):
            cfg.SOLVER.BASE_LR = 1.0
        cfg.defrost()
        cfg.SOLVER.BASE_LR = 1.0
        assert cfg.SOLVER.BASE_LR == 1.0


class Layer:
    @configurable
    def __init__(self, channels, *, scale=1.0, name="layer"):
        self.arguments = (channels, scale, name)

    @classmethod
    def from_config(cls, cfg, channels):
        return {"channels": channels, "scale": cfg.SOLVER.BASE_LR}


class AnyArguments(Layer):
    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        return {"channels": args, "name": sorted(kwargs)}


class TestConfigurable:
    def test_explicit_arguments(self):
        assert Layer(8, scale=2.0).arguments == (8, 2.0, "layer")

    def test_config(self):
        for layer in (Layer(get_cfg(), 8), Layer(channels=8, cfg=get_cfg())):
            assert layer.arguments == (8, 0.001, "layer")

    def test_keywords_override_the_config(self):
        assert Layer(get_cfg(), 8, scale=3.0, name="x").arguments == (8, 3.0, "x")

    def test_from_config_that_takes_anything_gets_everything(self):
        assert AnyArguments(get_cfg(), 1, scale=2).arguments == ((1,), 1.0, ["scale"])

    def test_function(self):
        @configurable(from_config=lambda cfg: {"rate": cfg.SOLVER.BASE_LR, "steps": 1})
        def build(rate, steps=5):
            return rate, steps

        assert build(0.5) == (0.5, 5)
        assert build(get_cfg()) == (0.001, 1)
        assert build(get_cfg(), steps=9) == (0.001, 9)

    def test_class_without_from_config_is_an_error(self):
        class Incomplete:
            @configurable
            def __init__(self, x):
                pass

        with pytest.raises(AttributeError, match="from_config"):
            Incomplete(1)

    def test_from_config_must_be_a_classmethod(self):
        class Wrong:
            @configurable
            def __init__(self, x):
                pass

            def from_config(self, cfg):
                return {}

        with pytest.raises(TypeError, match="classmethod"):
            Wrong(get_cfg())

    def test_first_argument_of_from_config_must_be_cfg(self):
        class Wrong:
            @configurable
            def __init__(self, x):
                pass

            @classmethod
            def from_config(cls, config):
                return {}

        with pytest.raises(TypeError, match="cfg"):
            Wrong(get_cfg())

    def test_only_init_can_be_decorated_without_arguments(self):
        with pytest.raises(AssertionError, match="Incorrect use"):

            @configurable
            def build(x):
                pass
