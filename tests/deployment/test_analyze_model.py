"""What a model costs, by d2_ctxseg.deployment.analysis and by tools/analyze_model.py."""

import json
import runpy
import sys

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import nn
from train_net_runs import ROOT

from d2_ctxseg.deployment import analysis
from d2_ctxseg.utils.errors import UserError
from detectron2.config import get_cfg
from detectron2.modeling import build_model

CLASSES, CHANNELS = 5, 32  # of tiny_config
LINEAR = CLASSES * (CHANNELS + 1)
PROJECTOR = 2 * CHANNELS * CHANNELS // 2 + CHANNELS // 2 * CHANNELS + CHANNELS
# res4 of resnet18 has 256 channels; a 3x3 convolution, its norm, the classifier.
AUXILIARY = 256 * 256 * 9 + 2 * 256 + CLASSES * 257


def counts(cfg, *opts):
    cfg.merge_from_list(list(opts))
    return analysis.count_parameters(analysis.build_for_analysis(cfg))


class TestParameters:
    @pytest.mark.parametrize(
        ("meta_architecture", "classifier", "training_only"),
        [
            ("LinearSegmentor", LINEAR, 0),
            ("ContextAwareSegmentor", LINEAR + 2 * PROJECTOR, PROJECTOR),
            # Twice two projectors and a linear map; position vectors and a depthwise convolution.
            (
                "SemanticSpatialSegmentor",
                LINEAR + 2 * (2 * PROJECTOR + CHANNELS**2) + (CLASSES + 10) * CHANNELS,
                2 * PROJECTOR + CHANNELS**2,
            ),
            # The norms of features and scores; the prototypes are no parameters.
            ("PrototypeSegmentor", 2 * CHANNELS + 2 * CLASSES, 0),
            # A projection to 64 channels, its norm, and two more; the mixtures are no parameters.
            ("GaussianMixtureSegmentor", 64 * CHANNELS + 4 * 64 + 2 * CLASSES, 0),
            # Ten vectors a class, which are.
            ("LearnedPrototypeSegmentor", 10 * CHANNELS * CLASSES, 0),
        ],
    )
    def test_of_the_classifier_are_those_of_the_formula(
        self, tiny_config, meta_architecture, classifier, training_only
    ):
        result = counts(tiny_config, "MODEL.META_ARCHITECTURE", meta_architecture)
        assert result["classifier"] == classifier
        assert result["training_only"] == training_only
        assert result["auxiliary"] == result["other"] == result["frozen"] == 0

    def test_of_the_parts_add_up(self, tiny_config):
        result = counts(tiny_config, "MODEL.AUXILIARY_HEAD.ENABLED", True)
        model = build_model(tiny_config)
        assert result["total"] == sum(p.numel() for p in model.parameters())
        parts = ("backbone", "head", "classifier", "auxiliary", "other")
        assert result["total"] == sum(result[part] for part in parts)
        assert result["backbone"] == sum(p.numel() for p in model.backbone.parameters())
        assert result["head"] == sum(p.numel() for p in model.sem_seg_head.parameters())

    def test_of_auxiliary_head_and_oracle_are_left_out_at_test_time(self, tiny_config):
        result = counts(tiny_config, "MODEL.AUXILIARY_HEAD.ENABLED", True)
        assert result["auxiliary"] == AUXILIARY
        assert result["training_only"] == AUXILIARY + PROJECTOR
        assert result["test_time"] == result["total"] - AUXILIARY - PROJECTOR

    def test_of_prototypes_do_not_grow_with_their_number(self, tiny_config):
        opts = ("MODEL.META_ARCHITECTURE", "PrototypeSegmentor")
        key = "MODEL.CLASSIFIER.PROTOTYPE.NUM_PROTOTYPES"
        assert counts(tiny_config, *opts, key, 1) == counts(tiny_config, *opts, key, 20)

    def test_of_a_head_that_classifies_by_itself_are_the_heads(self, tiny_config):
        opts = ["MODEL.META_ARCHITECTURE", "ExplicitClassSegmentor"]
        result = counts(tiny_config, *opts, "MODEL.SEM_SEG_HEAD.NAME", "ECEHead")
        assert result["classifier"] == 0
        assert result["total"] == result["backbone"] + result["head"]

    def test_of_detectron2s_own_segmentor_are_divided_alike(self, tiny_config):
        ours = counts(tiny_config, "MODEL.META_ARCHITECTURE", "LinearSegmentor")
        assert counts(tiny_config, "MODEL.META_ARCHITECTURE", "SemanticSegmentor") == ours

    def test_frozen_ones_count_and_are_reported(self, tiny_config):
        model = analysis.build_for_analysis(tiny_config)
        before = analysis.count_parameters(model)
        model.backbone.requires_grad_(False)
        after = analysis.count_parameters(model)
        assert after == {**before, "frozen": before["backbone"]}

    def test_counting_leaves_the_model_whole(self, tiny_config):
        model = analysis.build_for_analysis(tiny_config)
        assert analysis.count_parameters(model) == analysis.count_parameters(model)

    def test_of_what_is_no_segmentor_are_refused(self):
        with pytest.raises(UserError, match="Linear has no backbone and no sem_seg_head"):
            analysis.count_parameters(nn.Linear(2, 2))

    def test_structure_has_the_whole_and_its_parts(self, tiny_config):
        model = analysis.build_for_analysis(tiny_config)
        result, expected = analysis.structure(model), analysis.count_parameters(model)
        assert result[""] == expected["total"]
        assert result["backbone"] == expected["backbone"]
        assert result["classifier.oracle_projector"] == PROJECTOR
        assert max(name.count(".") for name in result) == 2


class OnImages(nn.Module):
    """Calls a function on the image, as a model that takes Detectron2's inputs."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, batched_inputs):
        return self.function(self, batched_inputs[0]["image"][None])


def multiply_adds(function, size=(8, 12), **modules):
    return analysis.count_multiply_adds(OnImages(function, **modules), size)


class TestMultiplyAdds:
    def test_of_a_convolution(self):
        conv = nn.Conv2d(3, 6, kernel_size=3, stride=2, padding=1, groups=3)
        result = multiply_adds(lambda m, x: m.conv(x), conv=conv)
        # 4 x 6 pixels of 6 channels, each the sum over a 3 x 3 window of one channel.
        assert result.total == 4 * 6 * 6 * 9
        assert result.not_counted == {}

    def test_of_a_linear_layer(self):
        result = multiply_adds(lambda m, x: m.linear(x), linear=nn.Linear(12, 7))
        assert result.total == 3 * 8 * 12 * 7

    def test_of_einsum(self):
        result = multiply_adds(lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x))
        assert result.total == 3 * 3 * 96

    @pytest.mark.parametrize("num_heads", [1, 4])
    def test_of_fused_attention(self, num_heads):
        def attention(model, x):
            tokens = x.flatten(2).reshape(1, num_heads, 3 * 96 // 8 // num_heads, 8)
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

        tokens = 3 * 96 // 8 // num_heads
        assert multiply_adds(attention).total == 2 * num_heads * tokens * tokens * 8

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_of_multi_head_attention_in_eval_mode(self, need_weights):
        """PyTorch has a fused operator for it, which hides the products."""

        def attend(model, x):
            return model.attention(*[x[:, 0]] * 3, need_weights=need_weights)[0]

        attention = nn.MultiheadAttention(12, 2, batch_first=True).eval()
        result = multiply_adds(attend, attention=attention)
        assert result.total == 8 * 4 * 12 * 12 + 2 * 8 * 8 * 12

    def test_of_all_else_are_not_counted_but_named(self):
        result = multiply_adds(lambda m, x: m.norm(x).relu().softmax(1), norm=nn.BatchNorm2d(3))
        assert result.total == 0
        assert set(result.not_counted) >= {"aten.relu", "aten._softmax"}

    def test_of_an_encoders_convolutions_are_as_fvcore_counts_them(self, tiny_config):
        encoder = build_model(tiny_config).backbone.eval()
        theirs = FlopCountAnalysis(encoder, torch.rand(1, 3, 64, 96))
        theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        result = multiply_adds(lambda m, x: m.encoder(x), (64, 96), encoder=encoder)
        assert result.total == theirs.by_operator()["conv"]

    def test_are_of_the_padded_image(self, tiny_config):
        model = analysis.build_for_analysis(tiny_config)
        small, padded, larger = (
            analysis.count_multiply_adds(model, size).total
            for size in ((40, 50), (64, 64), (64, 96))
        )
        assert small == padded < larger

    def test_are_of_the_prediction_alone(self, tiny_config):
        plain = analysis.build_for_analysis(tiny_config)
        tiny_config.MODEL.AUXILIARY_HEAD.ENABLED = True
        auxiliary = analysis.build_for_analysis(tiny_config)
        assert analysis.count_multiply_adds(plain, (64, 64)) == analysis.count_multiply_adds(
            auxiliary, (64, 64)
        )

    def test_are_the_same_for_a_model_with_weights(self, tiny_config):
        shapes, real = (analysis.build_for_analysis(tiny_config, d) for d in ("meta", "cpu"))
        weight = real.classifier.predictor.weight
        before = weight.clone()
        assert analysis.count_multiply_adds(shapes, (64, 64)) == analysis.count_multiply_adds(
            real, (64, 64)
        )
        assert torch.equal(weight, before) and real.classifier.predictor.weight is weight

    def test_of_a_sliding_window_model_are_of_one_image(self, tiny_config):
        whole = analysis.build_for_analysis(tiny_config)
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        tiny_config.TEST.SLIDING_WINDOW.SIZE = [32, 32]
        windows = analysis.build_for_analysis(tiny_config)
        assert analysis.count_multiply_adds(whole, (64, 64)) == analysis.count_multiply_adds(
            windows, (64, 64)
        )
        assert tiny_config.TEST.SLIDING_WINDOW.ENABLED

    def test_of_a_model_that_looks_at_values_cannot_be_counted(self):
        with pytest.raises(UserError, match="OnImages for an image of 8x12 pixels cannot be"):
            multiply_adds(lambda m, x: x * x.sum().item())


class TestInputSize:
    @pytest.fixture
    def cfg(self):
        cfg = get_cfg()
        cfg.INPUT.CROP.TYPE = "absolute"
        cfg.INPUT.CROP.SIZE = [60, 70]
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 100, 200
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (80, 90), 150
        return cfg

    def test_is_the_crop(self, cfg):
        cfg.INPUT.CROP.ENABLED = True
        assert analysis.input_size(cfg) == (60, 70, "INPUT.CROP.SIZE")

    def test_is_that_of_test_images_without_a_crop_of_fixed_size(self, cfg):
        assert analysis.input_size(cfg) == (100, 200, "INPUT.*_SIZE_TEST")
        cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "relative_range"
        assert analysis.input_size(cfg) == (100, 200, "INPUT.*_SIZE_TEST")

    def test_is_that_of_training_images_where_test_images_keep_theirs(self, cfg):
        cfg.INPUT.MIN_SIZE_TEST = 0
        assert analysis.input_size(cfg) == (90, 150, "INPUT.*_SIZE_TRAIN")


class TestMeasurements:
    @pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
    def test_memory_is_the_weights_and_more(self, tiny_config, optimizer):
        tiny_config.SOLVER.OPTIMIZER = optimizer
        model = analysis.build_for_analysis(tiny_config, "cpu")
        result = analysis.measure_memory(tiny_config, model, (64, 64))
        assert result["weights"] > 4 * analysis.count_parameters(model)["total"]
        assert result["inference"] > result["weights"]
        # Gradients, and one or two moments.
        moments = {"SGD": 1, "ADAMW": 2}[optimizer]
        assert result["training_step"] > (2 + moments) * result["weights"]
        assert not model.training

    def test_speed_is_the_median(self, tiny_config):
        model = analysis.build_for_analysis(tiny_config, "cpu")
        result = analysis.measure_speed(model, (64, 64), repeats=3, warm_up=1)
        assert 0 < result["fastest"] <= result["milliseconds"] <= result["slowest"]
        assert result["images_per_second"] == pytest.approx(1000 / result["milliseconds"])


CONFIG = f"""
_BASE_: "{ROOT}/configs/Base-Segmentor.yaml"
MODEL:
  ENCODER: {{NAME: "resnet18"}}
  SEM_SEG_HEAD:
    NUM_CLASSES: 6
    DECODER: {{NAME: "FPN", OPTIONS: ["pyramid_channels", 32, "segmentation_channels", 32]}}
DATASETS:
  TRAIN: ["context_shapes_sem_seg_train"]
  TEST: ["context_shapes_sem_seg_val"]
INPUT: {{CROP: {{SIZE: [64, 96]}}}}
"""


class TestTool:
    @pytest.fixture
    def analyze(self, tmp_path, monkeypatch, capfd):
        """Runs the tool on a small config; its standard output, down to the C library's."""
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
        path = tmp_path / "tiny.yaml"
        path.write_text(CONFIG)

        def run(*arguments):
            command = ["analyze_model.py", "--config-file", str(path), *arguments]
            monkeypatch.setattr(sys, "argv", command)
            capfd.readouterr()
            runpy.run_path(str(ROOT / "tools" / "analyze_model.py"), run_name="__main__")
            return capfd.readouterr().out

        return run

    def test_json_is_one_object_with_numbers(self, analyze):
        result = json.loads(analyze("--json"))
        assert result["config"].endswith("tiny.yaml")
        assert (result["input_size"], result["input_size_from"]) == ([64, 96], "INPUT.CROP.SIZE")
        assert type(result["flops"]) is int and result["flops"] > 1e8
        assert result["parameters"]["classifier"] == 6 * 33 + 2 * PROJECTOR
        assert not {"speed", "memory", "structure", "tree"} & set(result)

    def test_json_of_all_tasks(self, analyze):
        tasks = ("parameters", "flops", "speed", "memory", "structure")
        result = json.loads(analyze("--json", "--repeats", "2", "--tasks", *tasks))
        assert set(tasks) < set(result)
        assert result["speed"]["repeats"] == result["memory"]["training_batch_size"] == 2
        assert result["structure"][""] == result["parameters"]["total"]

    def test_text_says_the_same(self, analyze):
        text = analyze("--tasks", "parameters", "flops", "structure")
        result = json.loads(analyze("--json"))
        assert f"{result['parameters']['total'] / 1e6:.3f} M" in text
        assert f"multiply-adds of one image: {result['flops'] / 1e9:.2f} G" in text
        assert "images of 64x96 (INPUT.CROP.SIZE)" in text
        assert "classifier.oracle_projector" in text

    def test_text_of_speed_and_memory(self, analyze):
        text = analyze("--repeats", "1", "--tasks", "speed", "memory")
        assert "images/s (median of 1" in text
        assert "training step of 2" in text
        assert "multiply-adds" not in text

    def test_overrides_may_follow_the_tasks(self, analyze):
        opts = ["SEED", "3", "MODEL.META_ARCHITECTURE", "LinearSegmentor"]
        result = json.loads(analyze("--json", "--tasks", "parameters", *opts))
        assert result["parameters"]["classifier"] == 6 * 33
        assert "flops" not in result

    def test_input_size_is_of_ones_choice(self, analyze):
        small = json.loads(analyze("--json", "--input-size", "64", "64"))
        large = json.loads(analyze("--json", "--input-size", "128", "128"))
        assert large["input_size"] == [128, 128]
        assert 3 < large["flops"] / small["flops"] <= 4
        assert large["parameters"] == small["parameters"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--input-size", "32", "32"], "32x32 pixels cannot be counted .* too small"),
            (["MODEL.ENCODER.NAM", "x"], "Did you mean 'MODEL.ENCODER.NAME'"),
            (["MODEL.ENCODER.NAME", "resnet19"], "no encoder 'resnet19'"),
        ],
    )
    def test_errors_are_reported(self, analyze, arguments, message):
        with pytest.raises(SystemExit, match=message):
            analyze("--json", *arguments)
