"""The attention-to-mask decoder against loops and against PyTorch's transformer decoder."""

import pytest
import torch
from torch import nn

from d2_ctxseg.modeling.heads.attention_to_mask import (
    AttentionToMask,
    AttentionToMaskLayer,
    SimilarityAttention,
    mean_similarity,
)


def head_by_head_attention(attention, tokens, pixels):
    """Attention as loops over images, tokens and heads."""
    size = tokens.shape[2] // attention.num_heads
    seen = torch.zeros_like(tokens)
    similarity = torch.zeros(*tokens.shape[:2], pixels.shape[1])
    for b in range(len(tokens)):
        query, key = attention.query(tokens[b]), attention.key(pixels[b])
        value = attention.value(pixels[b])
        for k in range(tokens.shape[1]):
            for h in range(attention.num_heads):
                part = slice(h * size, (h + 1) * size)
                scores = (key[:, part] * query[k, part]).sum(dim=1) / size**0.5
                similarity[b, k] += scores / attention.num_heads
                seen[b, k, part] = (scores.softmax(dim=0)[:, None] * value[:, part]).sum(dim=0)
    return attention.projection(seen), similarity


class TestAttentionToMask:
    def test_attention_is_that_of_loops_over_heads(self):
        attention = SimilarityAttention(12, 3).eval()
        tokens, pixels = torch.randn(2, 4, 12), torch.randn(2, 7, 12)
        actual = attention(tokens, pixels)
        expected = head_by_head_attention(attention, tokens, pixels)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)

    def test_gradients_are_correct(self):
        attention = SimilarityAttention(6, 2).double().eval()
        tokens = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
        pixels = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(attention, (tokens, pixels))

    def test_a_layer_is_pytorchs_transformer_decoder_layer(self):
        """The authors' layer is derived from it."""
        layer = AttentionToMaskLayer(16, 4).eval()
        reference = nn.TransformerDecoderLayer(16, 4, dim_feedforward=64, batch_first=True).eval()
        cross = layer.cross_attention
        projections = (cross.query, cross.key, cross.value)
        with torch.no_grad():
            reference.multihead_attn.in_proj_weight.copy_(
                torch.cat([projection.weight for projection in projections])
            )
            nn.init.normal_(reference.multihead_attn.in_proj_bias)
            for projection, bias in zip(
                projections, reference.multihead_attn.in_proj_bias.chunk(3)
            ):
                projection.bias.copy_(bias)
        for ours, theirs in (
            (layer.self_attention, reference.self_attn),
            (cross.projection, reference.multihead_attn.out_proj),
            (layer.mlp[0], reference.linear1),
            (layer.mlp[3], reference.linear2),
        ):
            theirs.load_state_dict(ours.state_dict())
        tokens, pixels = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
        torch.testing.assert_close(layer(tokens, pixels)[0], reference(tokens, pixels))

    def test_the_mask_is_the_last_layers_similarity(self):
        stage = AttentionToMask(8, 12, num_heads=3, num_layers=2).eval()
        pixels = stage.project(torch.randn(2, 8, 3, 4))
        tokens = torch.randn(2, 5, 12)
        first, _ = stage.layers[0](tokens, pixels)
        expected = stage.layers[1](first, pixels)
        torch.testing.assert_close(stage(tokens, pixels), expected)
        assert expected[1].shape == (2, 5, 12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_similarities_are_not_of_half_precision(self, dtype):
        query, key = torch.full((1, 1, 512), 32.0, dtype=dtype), torch.full((1, 2, 512), 32.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            similarity = mean_similarity(query, key.to(dtype), 8)
        assert similarity.dtype == torch.float32
        torch.testing.assert_close(similarity, torch.full((1, 1, 2), 8 * 32.0 * 32.0))
