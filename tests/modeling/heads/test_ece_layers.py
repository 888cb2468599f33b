"""The layers of ECENet's head, each against a plain reference, and its diversity loss.

Their agreement with the authors' numbers is in test_ece_head.py.
"""

import pytest
import torch
import torch.nn.functional as F
from layer_checks import LayerChecks

from d2_ctxseg.modeling.heads.ece_layers import (
    AdditionUpdater,
    FeatureReconstruction,
    GhostUpsample,
    diversity_loss,
    diversity_map,
)


@pytest.mark.parametrize(
    "make_part, shapes",
    [
        (lambda: FeatureReconstruction(4), [(2, 4, 3, 2)]),
        (lambda: GhostUpsample(2, 1), [(2, 2, 2, 3)]),
    ],
    ids=["FeatureReconstruction", "GhostUpsample"],
)
class TestEveryLayer(LayerChecks):
    pass


class TestFeatureReconstruction:
    def test_output_is_made_of_the_diverse_and_the_intrinsic_half(self):
        part = FeatureReconstruction(8).eval()
        features = torch.randn(2, 8, 5, 4)
        intrinsic = part.intrinsic[0](features) / (1 + 1e-5) ** 0.5
        diverse = part.diverse[0](intrinsic) / (1 + 1e-5) ** 0.5
        first, second = part.gate[0].weight, part.gate[2].weight
        gate = (diverse.mean(dim=(2, 3)) @ first.T).clamp(min=0) @ second.T
        diverse = diverse * gate[..., None, None]
        merged = torch.einsum(
            "oc,bchw->bhwo", part.merge.weight[:, :, 0, 0], torch.cat([diverse, intrinsic], 1)
        )
        expected = F.layer_norm(merged, (8,)).permute(0, 3, 1, 2)
        output, returned_diverse = part(features)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(returned_diverse, diverse)
        assert output.shape == features.shape and diverse.shape == (2, 4, 5, 4)

    def test_works_on_a_single_position(self):
        output, diverse = FeatureReconstruction(8)(torch.randn(2, 8, 1, 1))
        assert torch.isfinite(output).all() and diverse.shape == (2, 4, 1, 1)

    @pytest.mark.parametrize("channels", [2, 7])
    def test_refuses_channels_that_it_cannot_halve_twice(self, channels):
        with pytest.raises(ValueError, match=f"cannot halve {channels} channels"):
            FeatureReconstruction(channels)


def test_adding_embeddings_has_no_parameters():
    u, e = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    assert torch.equal(AdditionUpdater()(u, e), u + e)
    assert not list(AdditionUpdater().parameters())


class TestGhostUpsample:
    @pytest.mark.parametrize("num_doublings", [0, 1, 3])
    def test_size_doubles(self, num_doublings):
        factor = 2**num_doublings
        output = GhostUpsample(4, num_doublings)(torch.randn(2, 4, 3, 2))
        assert output.shape == (2, 4, 3 * factor, 2 * factor)

    def test_four_channels_become_the_four_pixels_of_a_position(self):
        part = GhostUpsample(2, 1).eval()
        features = torch.randn(1, 2, 2, 3)
        primary = part[0].primary(features)
        wide = torch.cat([primary, part[0].cheap(primary)], dim=1)
        expected = torch.zeros(1, 2, 4, 6)
        for c in range(2):
            for y in range(4):
                for x in range(6):
                    source = 4 * c + 2 * (y % 2) + x % 2
                    expected[0, c, y, x] = wide[0, source, y // 2, x // 2]
        torch.testing.assert_close(part(features), expected)


class TestDiversityLoss:
    def test_equals_loops_over_channels_and_positions(self):
        diverse = torch.randn(2, 3, 2, 2).double()
        expected = torch.zeros(2, 4).double()
        for image in range(2):
            for x in range(4):
                shares = [diverse[image, c].flatten().softmax(0)[x] for c in range(3)]
                expected[image, x] = max(shares)
        torch.testing.assert_close(diversity_map(diverse), expected)
        loss = diversity_loss([diversity_map(diverse)], [3])
        torch.testing.assert_close(loss, (1 - expected.sum(dim=1) / 3).mean())

    def test_channels_that_look_at_the_same_place_are_not_diverse(self):
        same = torch.randn(2, 1, 3, 3).expand(2, 4, 3, 3)
        assert diversity_loss([diversity_map(same)], [4]).item() == pytest.approx(1 - 1 / 4)

    def test_channels_that_each_look_at_another_place_are(self):
        apart = 100 * torch.eye(4).reshape(1, 4, 2, 2)
        assert diversity_loss([diversity_map(apart)], [4]).item() == pytest.approx(0)

    def test_is_the_mean_over_stages(self):
        stages = [torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2)]
        maps = [diversity_map(stage) for stage in stages]
        separate = [diversity_loss([m], [c]) for m, c in zip(maps, [4, 6])]
        torch.testing.assert_close(diversity_loss(maps, [4, 6]), torch.stack(separate).mean())

    def test_gradient(self):
        diverse = torch.randn(1, 3, 2, 2).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: diversity_loss([diversity_map(x)], [3]), diverse)

    def test_half_precision_is_promoted(self):
        assert diversity_map(torch.randn(1, 2, 3, 3).half()).dtype == torch.float32
