"""The parts of ECENet, each against a plain reference and as a function that can be differentiated.

Their agreement with the authors' numbers is in test_ece_head.py.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import LayerChecks

from d2_ctxseg.classifiers.explicit_class_parts import (
    AssistedScores,
    ChannelLayerNorm,
    EmbeddingUpdater,
    ExplicitClassExtraction,
    PyramidAveragePool,
    SemanticsAttention,
    dissimilarity_attention,
    mean_similarity,
    pool_sizes,
)

# How to make each part, and the shapes of inputs that fit it.
PARTS = {
    "ExplicitClassExtraction": (lambda: ExplicitClassExtraction(3, 4), [(2, 3, 5, 4)]),
    "SemanticsAttention": (
        lambda: SemanticsAttention(4, num_heads=2),
        [(2, 4, 3, 2), (2, 3, 4)],
    ),
    "EmbeddingUpdater": (lambda: EmbeddingUpdater(4), [(2, 3, 4), (2, 3, 4)]),
    "AssistedScores": (lambda: AssistedScores(4, 3), [(2, 3, 4), (2, 3, 2, 3)]),
}
every_part = pytest.mark.parametrize("make_part, shapes", PARTS.values(), ids=PARTS)


@every_part
class TestEveryPart(LayerChecks):
    pass


def test_channel_layer_norm_is_over_channels():
    normed = ChannelLayerNorm(6)(torch.randn(2, 6, 3, 3) * 5 + 2)
    torch.testing.assert_close(normed.mean(dim=1), torch.zeros(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(dim=1, correction=0), torch.ones(2, 3, 3))


def pooled_by_loops(mask, size):
    """One mask (h, w) to size * size means."""
    height, width = mask.shape
    means = []
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            means.append(mask[rows, columns].mean())
    return torch.stack(means)


class TestExplicitClassExtraction:
    @pytest.mark.parametrize(
        "num_classes, ratio, finest",
        [(1, 1.0, 1), (9, 1.0, 3), (19, 1.0, 5), (150, 1.0, 13), (150, 2**0.5, 17), (4, 0.1, 1)],
    )
    def test_the_finest_grid_is_odd_and_grows_with_the_classes(self, num_classes, ratio, finest):
        assert pool_sizes(num_classes, ratio) == (1, 2, 3, 6, finest)

    @given(
        size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        grid=st.integers(1, 13),
        classes=st.integers(1, 3),
    )
    @settings(max_examples=30, deadline=None)
    def test_pooling_equals_loops_over_bins(self, size, grid, classes):
        masks = torch.randn(2, classes, *size).double()
        pooled = PyramidAveragePool((1, 2, grid))(masks)
        expected = torch.stack(
            [
                torch.stack(
                    [torch.cat([pooled_by_loops(m, s) for s in (1, 2, grid)]) for m in image]
                )
                for image in masks
            ]
        )
        torch.testing.assert_close(pooled, expected)

    def test_pooling_equals_that_of_pytorch(self):
        masks = torch.randn(2, 5, 25, 18)
        expected = [F.adaptive_avg_pool2d(masks, s).flatten(2) for s in (1, 2, 3, 6, 13)]
        pooled = PyramidAveragePool((1, 2, 3, 6, 13))(masks)
        torch.testing.assert_close(pooled, torch.cat(expected, dim=2))

    def test_pooling_of_half_precision_has_full_precision(self):
        masks = torch.randn(1, 2, 43, 43)
        pool = PyramidAveragePool((1, 6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = pool(masks.bfloat16())
        torch.testing.assert_close(pooled, pool(masks.bfloat16().float()))

    def test_pooling_adds_nothing_to_checkpoints(self):
        assert set(ExplicitClassExtraction(9, 8).state_dict()) == {
            "projection.weight",
            "projection.bias",
        }

    def test_an_embedding_depends_on_the_mask_of_its_class_alone(self):
        extraction = ExplicitClassExtraction(4, 8)
        masks = torch.randn(2, 4, 7, 9)
        order = [2, 0, 3, 1]
        torch.testing.assert_close(extraction(masks[:, order]), extraction(masks)[:, order])

    def test_linear_layer_of_the_pooled_mask(self):
        extraction = ExplicitClassExtraction(9, 8)
        masks = torch.randn(2, 9, 8, 8)
        values = torch.cat([pooled_by_loops(masks[1, 4], s) for s in (1, 2, 3, 6, 3)])
        assert values.shape == (59,)
        torch.testing.assert_close(extraction(masks)[1, 4], extraction.projection(values))

    def test_refuses_a_ratio_that_is_not_positive(self):
        with pytest.raises(ValueError, match="pool_ratio is 0, expected a positive number"):
            ExplicitClassExtraction(9, 8, pool_ratio=0)


def attention_by_loops(query, key, value, num_heads):
    """Attention and mean similarity, image by image, head by head and pixel by pixel."""
    batch, channels, height, width = query.shape
    width_of_head = channels // num_heads
    output, similarities = torch.zeros_like(query), torch.zeros(batch, key.shape[1], height, width)
    for b in range(batch):
        for head in range(num_heads):
            own = slice(head * width_of_head, (head + 1) * width_of_head)
            for y in range(height):
                for x in range(width):
                    similarity = key[b, :, own] @ query[b, own, y, x] / width_of_head**0.5
                    attention = (similarity.max() - similarity).softmax(dim=0)
                    output[b, own, y, x] = attention @ value[b, :, own]
                    similarities[b, :, y, x] += similarity / num_heads
    return output, similarities


class TestSemanticsAttention:
    @pytest.mark.parametrize("num_heads", [1, 2, 4])
    def test_attention_and_mask_equal_loops_over_heads(self, num_heads):
        query, key, value = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
        attended, mask = attention_by_loops(query, key, value, num_heads)
        torch.testing.assert_close(dissimilarity_attention(query, key, value, num_heads), attended)
        torch.testing.assert_close(mean_similarity(query, key, num_heads), mask)

    def test_large_similarities_do_not_overflow(self):
        query, key = torch.full((1, 8, 1, 1), 300.0), 300 * torch.randn(1, 3, 8)
        assert torch.isfinite(dissimilarity_attention(query, key, torch.randn(1, 3, 8), 2)).all()

    def test_steps_have_residuals_and_norms_before_them(self):
        part = SemanticsAttention(8, num_heads=2)
        features, embeddings = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 8)
        query = part.query(F.layer_norm(features.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2))
        pairs = part.key_value(F.layer_norm(embeddings, (8,)))
        attended, mask = attention_by_loops(query, pairs[..., :8], pairs[..., 8:], 2)
        expected = features + part.projection(attended)
        normed = F.layer_norm(expected.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)
        expected = expected + part.mlp(normed)
        refined, new_mask = part(features, embeddings)
        torch.testing.assert_close(refined, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(new_mask, mask, atol=1e-5, rtol=1e-4)

    def test_mask_of_a_class_follows_its_embedding(self):
        part = SemanticsAttention(8)
        features, embeddings = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 8)
        order = [4, 2, 0, 1, 3]
        refined, mask = part(features, embeddings)
        same, reordered = part(features, embeddings[:, order])
        torch.testing.assert_close(same, refined)
        torch.testing.assert_close(reordered, mask[:, order])

    def test_a_single_class_and_a_single_position(self):
        refined, mask = SemanticsAttention(8)(torch.randn(1, 8, 1, 1), torch.randn(1, 1, 8))
        assert refined.shape == (1, 8, 1, 1) and mask.shape == (1, 1, 1, 1)
        assert torch.isfinite(refined).all()

    def test_hidden_channels_follow_the_ratio(self):
        assert SemanticsAttention(8).mlp[0].out_channels == 32
        assert SemanticsAttention(8, mlp_ratio=0.5).mlp[0].out_channels == 4

    def test_refuses_heads_that_do_not_divide_the_channels(self):
        with pytest.raises(
            ValueError, match="num_heads is 3, expected a divisor of the 8 channels"
        ):
            SemanticsAttention(8, num_heads=3)


class TestUpdaters:
    def test_gate_decides_how_much_of_the_extracted_embedding_comes_in(self):
        part = EmbeddingUpdater(6)
        u, e = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
        p = u @ part.extracted_layer.weight.T + part.extracted_layer.bias
        p_in, p_out = p[..., :6], p[..., 6:]
        gate_input = part.gate_layer(part.current_layer(e) * p_in)
        gate = 1 / (1 + torch.exp(-F.layer_norm(gate_input, (6,))))
        updated = part.output_layer(gate * F.layer_norm(p_out, (6,)) + e)
        expected = F.layer_norm(updated, (6,)).clamp(min=0)
        torch.testing.assert_close(part(u, e), expected)


class TestAssistedScores:
    def test_a_mask_weighs_as_much_as_its_embedding_is_recognised(self):
        part = AssistedScores(6, 3)
        embeddings, mask = torch.randn(2, 3, 6), torch.randn(2, 3, 4, 5)
        scores = part(embeddings, mask)
        for b in range(2):
            for k in range(3):
                certainty = part.classify(embeddings[b, k]).softmax(dim=0)[k]
                torch.testing.assert_close(scores[b, k], certainty * mask[b, k].sigmoid())
