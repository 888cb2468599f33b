"""Weights of the authors' code for this project's classifiers and head."""

from pathlib import Path

import numpy as np
import pytest
import torch

from d2_ctxseg.checkpoint import convert_official_state_dict
from d2_ctxseg.classifiers import (
    ContextAwareClassifier,
    GaussianMixtureClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from d2_ctxseg.modeling import ECEHead
from d2_ctxseg.utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
METHODS = {
    "cac": ("context_aware.npz", lambda: ContextAwareClassifier(16, 7)),
    "ssa": ("semantic_spatial.npz", lambda: SemanticSpatialClassifier(16, 7)),
    "protoseg": ("prototype.npz", lambda: PrototypeClassifier(16, 6, num_prototypes=4)),
    "gmmseg": (
        "gaussian_mixture.npz",
        lambda: GaussianMixtureClassifier(
            16, 6, num_components=3, embedding_channels=None, memory_size=20
        ),
    ),
    "ecenet": ("explicit_class.npz", lambda: ECEHead((16, 32, 64, 128), 9, channels=32)),
}
# The authors' weights that nothing reads.
UNUSED = {"gmmseg": ["eye_matrix"]}
PREFIXES = {
    "cac": ["decode_head.", "module.decode_head.", "decode_head.1."],
    "ssa": ["decode_head.", "module.decode_head.", "decode_head.1."],
    "protoseg": ["module."],
    "gmmseg": ["decode_head.", "module.decode_head."],
    "ecenet": ["decode_head.", "module.decode_head."],
}


def official(method):
    arrays = np.load(FIXTURES / METHODS[method][0])
    return {
        key.removeprefix("state/"): torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith("state/")
    }


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_every_weight_finds_its_place(self, method):
        converted = convert_official_state_dict(official(method), method)
        METHODS[method][1]().load_state_dict(converted)
        unused = UNUSED.get(method, [])
        assert set(unused) <= official(method).keys()
        assert len(converted) == len(official(method)) - len(unused)

    def test_of_a_whole_model_the_rest_is_left_out(self, method):
        expected = convert_official_state_dict(official(method), method)
        for prefix in PREFIXES[method]:
            model = {prefix + key: tensor for key, tensor in official(method).items()}
            model["backbone.norm.weight"] = model["auxiliary_head.conv_seg.weight"] = torch.zeros(1)
            if method != "ecenet":
                model[prefix + "fusion.conv.weight"] = torch.zeros(1)
            converted = convert_official_state_dict({"state_dict": model}, method)
            assert converted.keys() == expected.keys()
            torch.testing.assert_close(converted, expected, rtol=0, atol=0)

    def test_unknown_keys_are_reported(self, method):
        state = {**official(method), "conv_segment.weight": torch.zeros(1), "x.bias": torch.ones(1)}
        with pytest.raises(UserError, match="conv_segment.weight, x.bias. Expected names such as"):
            convert_official_state_dict(state, method)

    def test_weights_without_the_method_are_reported(self, method):
        with pytest.raises(UserError, match=f"0 keys.* contains nothing of the authors' {method}"):
            convert_official_state_dict({}, method)


def test_of_a_cascade_the_last_head_has_the_classifier():
    first = {f"decode_head.0.{key}": torch.zeros_like(x) for key, x in official("cac").items()}
    last = {f"decode_head.1.{key}": x for key, x in official("cac").items()}
    converted = convert_official_state_dict({**first, **last}, "cac")
    torch.testing.assert_close(converted, convert_official_state_dict(official("cac"), "cac"))


def test_a_projection_of_prototypes_is_converted():
    classifier = PrototypeClassifier(16, 6, num_prototypes=4, projection=True)
    names = {"projection.0": "proj.0", "projection.1": "proj.1.0", "projection.3": "proj.2"}
    state = official("protoseg")
    for ours, theirs in names.items():
        for key, tensor in classifier.projection[int(ours[-1])].state_dict().items():
            state[f"proj_head.{theirs}.{key}"] = torch.rand_like(tensor.float())
    converted = convert_official_state_dict(state, "protoseg")
    classifier.load_state_dict(converted)
    expected = state["proj_head.proj.2.weight"]
    torch.testing.assert_close(classifier.projection[3].weight, torch.nn.Parameter(expected))


def test_a_projection_of_gaussian_mixtures_is_converted():
    classifier = GaussianMixtureClassifier(
        24, 6, num_components=3, embedding_channels=16, memory_size=20
    )
    state = official("gmmseg")
    state["conv_seg.weight"], state["conv_seg.bias"] = torch.zeros(6, 24, 1, 1), torch.zeros(6)
    for ours, theirs in enumerate(("conv", "bn")):
        for key, tensor in classifier.projection[ours].state_dict().items():
            state[f"projection.{theirs}.{key}"] = torch.rand_like(tensor.float())
    classifier.load_state_dict(convert_official_state_dict(state, "gmmseg"))
    expected = state["projection.bn.running_var"]
    torch.testing.assert_close(classifier.projection[1].running_var, expected)


def test_unknown_methods_list_the_known_ones():
    with pytest.raises(
        UserError, match="method 'cca', expected one of cac, ssa, protoseg, gmmseg, ecenet"
    ):
        convert_official_state_dict({}, "cca")
