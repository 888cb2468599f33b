"""Whole models of the authors' codes, through d2_ctxseg.checkpoint.official_models and the tool."""

import runpy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from official_networks import (
    FIXTURES,
    MIT,
    MOBILENET,
    SWIN,
    SYSTEMS,
    config,
    image,
    official,
    official_output,
)

from d2_ctxseg.checkpoint import convert_official_state_dict, load_weights
from d2_ctxseg.checkpoint.official_models import convert_official_backbone, convert_official_model
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_backbone, build_model

ROOT = Path(__file__).parents[2]


@cache
def model(name):
    return build_model(config(SYSTEMS[name])).eval()


@cache
def converted(name):
    return convert_official_model({"state_dict": official(name)}, model(name))


def logits(segmentor, images):
    with torch.no_grad():
        return segmentor.classifier(segmentor.sem_seg_head.layers(segmentor.backbone(images)))


def fingerprint(tensor):
    """The same values for the same numbers in any order and shape."""
    bits = tensor.contiguous().view(torch.int32) if tensor.is_floating_point() else tensor
    return tensor.numel(), bits.sum(dtype=torch.int64).item()


@pytest.mark.parametrize("name", SYSTEMS)
class TestWholeModel:
    def test_it_computes_what_the_authors_model_computes(self, name):
        segmentor = model(name)
        segmentor.load_state_dict(converted(name))
        if name == "protoseg":  # inside its HRNet, too
            for module in segmentor.modules():
                if isinstance(module, torch.nn.Upsample):
                    module.align_corners = True
        expected = official_output(name)
        assert expected.std() > 0.2
        torch.testing.assert_close(logits(segmentor, image()), expected, rtol=0, atol=3e-5)

    def test_no_number_of_the_file_is_lost_and_none_is_added(self, name):
        used = {
            key: tensor
            for key, tensor in official(name).items()
            if not key.endswith("relative_position_index")
            and not (name == "segformer" and key.startswith("decode_head.conv_seg."))
        }
        ours = dict(converted(name))
        if name == "protoseg":
            bias = used.pop("cls_head.0.bias")
            mean = used.pop("cls_head.1.0.running_mean") - bias
            torch.testing.assert_close(ours.pop("sem_seg_head.convs.1.running_mean"), mean)
        assert sorted(map(fingerprint, used.values())) == sorted(map(fingerprint, ours.values()))

    def test_a_distributed_models_prefix_and_missing_counters_do_not_matter(self, name):
        state = {
            f"module.{key}": tensor
            for key, tensor in official(name).items()
            if not key.endswith("num_batches_tracked")
        }
        again = convert_official_model(state, model(name))
        assert again.keys() == model(name).state_dict().keys()
        for key, tensor in again.items():
            if not key.endswith("num_batches_tracked"):
                assert torch.equal(tensor, converted(name)[key]), key


@pytest.mark.parametrize("name", ["swin_uper", "resnet_aspp", "mobilenet_psp", "mobilenet_fcn"])
def test_the_auxiliary_head_is_converted(name):
    for ours, theirs in {
        "convs.0.weight": "convs.0.conv.weight",
        "convs.1.running_var": "convs.0.bn.running_var",
        "predictor.bias": "conv_seg.bias",
    }.items():
        expected = official(name)[f"auxiliary_head.{theirs}"]
        assert torch.equal(converted(name)[f"auxiliary_head.{ours}"], expected)


@pytest.mark.parametrize("name", ["swin_uper", "resnet_aspp", "hrnet_ocr"])
def test_the_oracle_that_only_training_needs_is_converted(name):
    head = "decode_head.1." if name == "hrnet_ocr" else "decode_head."
    expected = official(name)[f"{head}apd_proj.2.weight"]
    assert torch.equal(converted(name)["classifier.oracle_projector.2.weight"], expected)


def test_a_semantic_and_spatial_classifier_is_converted_with_its_model():
    options = {**SYSTEMS["swin_uper"], "META_ARCHITECTURE": "SemanticSpatialSegmentor"}
    segmentor = build_model(config(options))
    ours = segmentor.classifier.state_dict()
    others = ("decode_head.proj.", "decode_head.apd_proj.")
    state = {k: v for k, v in official("swin_uper").items() if not k.startswith(others)}
    with np.load(FIXTURES / "semantic_spatial.npz") as arrays:
        keys = [key.removeprefix("state/") for key in arrays.files if key.startswith("state/")]
    numbers = {key: torch.tensor(number) for number, key in enumerate(keys)}
    names = convert_official_state_dict(numbers, "ssa")
    state |= {f"decode_head.{keys[number]}": ours[name] for name, number in names.items()}
    whole = convert_official_model(state, segmentor)
    assert len(names) == len(ours)
    for name, tensor in ours.items():
        assert torch.equal(whole[f"classifier.{name}"], tensor)


def test_the_other_images_that_protoseg_takes_are_pointed_out(caplog):
    convert_official_model(official("segformer"), model("segformer"))
    assert not caplog.records
    convert_official_model(official("protoseg"), model("protoseg"))
    assert "set INPUT.FORMAT to 'BGR'" in caplog.text


def test_an_explicit_class_head_is_converted_with_its_prediction():
    options = {
        "META_ARCHITECTURE": "ExplicitClassSegmentor",
        "ENCODER.NAME": "resnet18",
        "SEM_SEG_HEAD.NAME": "ECEHead",
        "ECE_HEAD.CHANNELS": 32,
    }
    segmentor = build_model(config(options))
    state = segmentor.state_dict()
    # ResNets of segmentation-models-pytorch have the authors' names.
    files = {
        key.replace("backbone.encoder.", "backbone."): tensor
        for key, tensor in state.items()
        if key.startswith("backbone.")
    }
    with np.load(FIXTURES / "explicit_class.npz") as arrays:
        names = [key.removeprefix("state/") for key in arrays.files if key.startswith("state/")]
    for name in names:
        key = next(iter(convert_official_state_dict({name: torch.empty(0)}, "ecenet")))
        files[f"decode_head.{name}"] = state[f"sem_seg_head.{key}"]
    torch.testing.assert_close(
        convert_official_model(files, segmentor), dict(state), rtol=0, atol=0
    )


class TestBackboneOnly:
    @pytest.mark.parametrize(
        ("name", "options", "module", "others"),
        [
            ("mit", MIT, "encoder", []),
            ("mobilenet_fcn", MOBILENET, "encoder.model", ["decode_head", "auxiliary_head"]),
        ],
    )
    def test_it_fills_the_encoder_through_the_config(self, name, options, module, others, tmp_path):
        path = tmp_path / "encoder.pth"
        state = {**official(name), "head.weight": torch.zeros(3)}
        weights, unused = convert_official_backbone(state, build_backbone(config(options)))
        assert {key.split(".")[0] for key in unused} == {*others, "head"}
        torch.save({"model": weights}, path)
        filled = build_backbone(config(options | {"ENCODER.WEIGHTS": str(path)}))
        state = filled.get_submodule(module).state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in weights.items())

    @pytest.mark.parametrize(
        ("name", "options", "module"),
        [("mit", MIT, "encoder"), ("swin_repository", SWIN, "encoder.model")],
    )
    def test_it_computes_what_the_authors_backbone_computes(self, name, options, module):
        backbone = build_backbone(config(options)).eval()
        weights, unused = convert_official_backbone(official(name), backbone)
        backbone.get_submodule(module).load_state_dict(weights)
        if backbone.output_norms:
            assert len(unused) == 8
            norm = {key: official(name)[f"norm3.{key}"] for key in ("weight", "bias")}
            backbone.output_norms["res5"].load_state_dict(norm)
        with torch.no_grad():
            deepest = backbone(image())["res5"]
        torch.testing.assert_close(deepest, official_output(name), rtol=0, atol=3e-5)

    def test_missing_weights_are_reported(self):
        state = {k: x for k, x in official("mit").items() if k != "layers.3.2.bias"}
        with pytest.raises(UserError, match="1 missing for the model: norm4.bias"):
            convert_official_backbone(state, build_backbone(config(MIT)))

    def test_other_codes_are_refused(self):
        with pytest.raises(UserError, match=r"are unknown\. Supported backbones are mmseg"):
            convert_official_backbone({"conv.weight": torch.zeros(1)}, model("segformer").backbone)


class TestMismatch:
    def refusal(self, change, system="segformer", **options):
        segmentor = model(system)
        if options:
            keys = {key.replace("__", "."): value for key, value in options.items()}
            segmentor = build_model(config(SYSTEMS[system] | keys))
        state = dict(official(system))
        change(state)
        with pytest.raises(UserError) as error:
            convert_official_model(state, segmentor)
        return str(error.value)

    def test_missing_left_over_and_misshapen_keys_are_listed(self):
        def change(state):
            del state["backbone.block1.0.norm1.weight"]
            state["decode_head.novelty.weight"] = torch.zeros(1)
            state["decode_head.linear_pred.bias"] = torch.zeros(7)

        message = self.refusal(change)
        assert "1 not used from the file: decode_head.novelty.weight" in message
        assert "1 missing for the model: backbone.encoder.block1.0.norm1.weight" in message
        assert "decode_head.linear_pred.bias (file (7,), model (5,))" in message
        assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES" in message

    def test_many_keys_are_counted(self):
        def change(state):
            for key in [key for key in state if key.startswith("backbone.block3.")]:
                del state[key]

        message = self.refusal(change)
        assert "missing for the model" in message
        assert " more" in message

    def test_an_auxiliary_head_needs_one_in_the_config(self):
        message = self.refusal(
            lambda state: state.update({"auxiliary_head.conv_seg.weight": torch.zeros(1)})
        )
        assert "1 not used from the file: auxiliary_head.conv_seg.weight" in message
        assert "set MODEL.AUXILIARY_HEAD.ENABLED to True" in message

    def test_another_classifier_is_not_dropped_silently(self):
        message = self.refusal(
            lambda state: state.update({"decode_head.apd_proj.0.weight": torch.zeros(1)})
        )
        assert "1 not used from the file: decode_head.apd_proj.0.weight" in message
        assert "'ContextAwareSegmentor'" in message
        message = self.refusal(
            lambda state: state.update({"decode_head.gt_center_proj.weight": torch.zeros(1)})
        )
        assert "'SemanticSpatialSegmentor'" in message

    def test_another_window_size_is_explained(self):
        def change(state):
            for key in state:
                if key.endswith("relative_position_bias_table"):
                    state[key] = torch.zeros(23 * 23, state[key].shape[1])

        assert "window size differs, set MODEL.ENCODER" in self.refusal(change, "swin_uper")

    def test_mmsegmentations_segformer_is_another_network(self):
        message = self.refusal(
            lambda state: state.update({"decode_head.fusion_conv.conv.weight": torch.zeros(1)})
        )
        assert "applies a norm and an activation to each" in message

    def test_a_file_without_a_backbone_is_no_whole_model(self):
        assert "--backbone-only" in self.refusal(lambda state: state.clear())

    def test_heads_without_official_checkpoints_are_refused(self):
        message = self.refusal(
            lambda state: None,
            SEM_SEG_HEAD__NAME="SemSegFPNHead",
            SEM_SEG_HEAD__IN_FEATURES=["res2", "res3"],
        )
        assert "checkpoints cannot be converted for SemSegFPNHead" in message


class TestTool:
    @pytest.fixture
    def files(self, tmp_path):
        torch.save({"meta": {"epoch": 1}, "state_dict": official("segformer")}, tmp_path / "in.pth")
        (tmp_path / "config.yaml").write_text(config(SYSTEMS["segformer"]).dump())
        return tmp_path

    def run(self, monkeypatch, folder, *arguments):
        tool = str(ROOT / "tools" / "convert_checkpoint.py")
        command = [tool, str(folder / "in.pth"), "--config-file", str(folder / "config.yaml")]
        monkeypatch.setattr(sys, "argv", [*command, "--output", str(folder / "o.pth"), *arguments])
        runpy.run_path(tool, run_name="__main__")

    def test_it_writes_a_checkpoint_that_fills_the_whole_model(self, files, monkeypatch, capsys):
        self.run(monkeypatch, files)
        assert "Wrote" in capsys.readouterr().out
        segmentor = build_model(config(SYSTEMS["segformer"])).eval()
        load_weights(segmentor, str(files / "o.pth"))
        expected = official_output("segformer")
        torch.testing.assert_close(logits(segmentor, image()), expected, rtol=0, atol=3e-5)

    def test_it_writes_a_backbone_alone(self, files, monkeypatch, capsys):
        self.run(monkeypatch, files, "--backbone-only")
        assert "decode_head.linear_pred.weight" in capsys.readouterr().out
        path = str(files / "o.pth")
        filled = build_backbone(config(MIT | {"ENCODER.WEIGHTS": path}))
        expected = official("segformer")["backbone.norm4.bias"]
        assert torch.equal(filled.encoder.norm4.bias, expected)

    def test_it_replaces_a_file_only_with_overwrite(self, files, monkeypatch):
        (files / "o.pth").write_text("mine")
        with pytest.raises(SystemExit, match="already exists"):
            self.run(monkeypatch, files)
        assert (files / "o.pth").read_text() == "mine"
        self.run(monkeypatch, files, "--overwrite")
        assert (files / "o.pth").stat().st_size > 1000

    def test_keys_and_values_change_the_config(self, files, monkeypatch):
        with pytest.raises(SystemExit, match=r"NUM_CLASSES") as error:
            self.run(monkeypatch, files, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7")
        assert "file (5, 32, 1, 1), model (7, 32, 1, 1)" in str(error.value)
        assert not (files / "o.pth").exists()

    def test_a_file_with_more_than_tensors_is_not_unpickled(self, files, monkeypatch):
        torch.save({"state_dict": {}, "meta": Path("config.py")}, files / "in.pth")
        with pytest.raises(SystemExit, match="a file of the weights alone is needed"):
            self.run(monkeypatch, files)

    def test_a_missing_file_is_reported_as_missing(self, files, monkeypatch):
        (files / "in.pth").unlink()
        with pytest.raises(SystemExit, match="No weights at") as error:
            self.run(monkeypatch, files)
        assert "weights_only" not in str(error.value)
