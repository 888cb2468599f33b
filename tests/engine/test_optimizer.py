"""Parameter groups and gradient clipping."""

import pytest
import timm
import torch
from timm.layers import RmsNorm
from torch import nn

from d2_ctxseg.engine import setup_config
from d2_ctxseg.engine.optimizer import build_optimizer, describe_groups, parameter_groups
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.layers import get_norm


class Model(nn.Module):
    """A transformer with tables and tokens as backbone, norms, biases and an embedding as head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.encoder = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, depth=3, embed_dim=24, num_heads=2
        )
        self.head = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8))
        self.tokens = nn.Embedding(5, 24)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)


@pytest.fixture(scope="module")
def model():
    return Model()


def options_of(model, key, **arguments):
    """Of each trained parameter's name what its group says."""
    groups = parameter_groups(model, **{"lr": 1.0, "weight_decay": 0.5, **arguments})
    values = {parameter: group[key] for group in groups for parameter in group["params"]}
    return {name: values[p] for name, p in model.named_parameters() if p in values}


class TestParameterGroups:
    def test_every_trained_parameter_is_in_one_group_and_frozen_ones_in_none(self, model):
        groups = parameter_groups(model, lr=1.0, weight_decay=0.5)
        grouped = [parameter for group in groups for parameter in group["params"]]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert len(grouped) == len(trained) and set(grouped) == set(trained)
        assert len(groups) == 1

    def test_norms_do_not_decay(self, model):
        decay = options_of(model, "weight_decay", weight_decay_norm=0.0)
        for name in ("head.1.weight", "head.2.bias", "backbone.encoder.blocks.0.norm1.weight"):
            assert decay[name] == 0.0
        assert decay["head.0.weight"] == decay["head.0.bias"] == 0.5

    def test_norms_of_the_head_do_where_that_is_requested(self, model):
        decay = options_of(model, "weight_decay", weight_decay_norm=0.0, decay_head_norms=True)
        assert decay["backbone.encoder.blocks.0.norm1.weight"] == 0.0
        assert decay["backbone.encoder.norm.bias"] == 0.0
        assert {value for name, value in decay.items() if not name.startswith("backbone.")} == {0.5}

    def test_a_decay_of_biases_concerns_those_of_the_head_s_norms(self, model):
        decay = options_of(
            model,
            "weight_decay",
            weight_decay_norm=0.0,
            weight_decay_bias=0.1,
            decay_head_norms=True,
        )
        assert (decay["head.1.weight"], decay["head.1.bias"]) == (0.5, 0.1)

    def test_biases_do_not_decay(self, model):
        decay = options_of(model, "weight_decay", weight_decay_bias=0.0)
        assert {value for name, value in decay.items() if name.endswith("bias")} == {0.0}
        assert decay["head.0.weight"] == decay["head.1.weight"] == 0.5

    def test_position_tables_and_tokens_do_not_decay(self, model):
        decay = options_of(model, "weight_decay", weight_decay_embed=0.0)
        without = {name for name, value in decay.items() if value == 0.0}
        assert without == {
            "tokens.weight",
            "backbone.encoder.pos_embed",
            "backbone.encoder.cls_token",
        }

    def test_norms_and_biases_of_other_kinds_are_found(self):
        modules = nn.ModuleList([get_norm("LN", 4), nn.MultiheadAttention(4, 2), RmsNorm(4)])
        decay = options_of(modules, "weight_decay", weight_decay_norm=0.0, weight_decay_bias=0.1)
        assert decay == {
            "0.weight": 0.0,
            "0.bias": 0.1,
            "1.in_proj_weight": 0.5,
            "1.in_proj_bias": 0.1,
            "1.out_proj.weight": 0.5,
            "1.out_proj.bias": 0.1,
            "2.weight": 0.0,
        }

    def test_what_a_model_itself_says_is_no_weight_does_not_decay(self):
        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale, self.weight = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

            def no_weight_decay(self):
                return {"scale"}

        decay = options_of(nn.Sequential(Encoder()), "weight_decay", weight_decay_embed=0.0)
        assert decay == {"0.scale": 0.0, "0.weight": 0.5}

    def test_swins_position_tables_are_found(self):
        swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24)
        decay = options_of(swin, "weight_decay", weight_decay_embed=0.0)
        tables = {name for name in decay if name.endswith("relative_position_bias_table")}
        assert tables == {name for name, value in decay.items() if value == 0.0}
        assert len(tables) == 4

    def test_backbone_and_head_learn_at_rates_of_their_own(self, model):
        rate = options_of(model, "lr", backbone_multiplier=0.1, head_multiplier=10.0)
        for name, value in rate.items():
            assert value == (0.1 if name.startswith("backbone.") else 10.0)

    def test_deeper_layers_learn_faster(self, model):
        rate = options_of(model, "lr", layer_decay=0.5, backbone_multiplier=2.0)
        assert rate["head.0.weight"] == 1.0
        encoder = "backbone.encoder."
        # Three blocks and the final norm above the embedding.
        assert rate[f"{encoder}blocks.2.attn.qkv.weight"] > rate[f"{encoder}blocks.1.norm1.weight"]
        ratios = [rate[f"{encoder}blocks.{i}.mlp.fc1.weight"] for i in range(3)]
        assert ratios[1] / ratios[0] == ratios[2] / ratios[1] == 2.0
        assert rate[f"{encoder}pos_embed"] == rate[f"{encoder}patch_embed.proj.weight"]
        assert rate[f"{encoder}pos_embed"] == ratios[0] / 2

    def test_the_last_block_of_a_pruned_transformer_learns_at_the_decay_times_the_rate(self):
        model = Model()
        model.backbone.encoder.prune_intermediate_layers([2], prune_norm=True, prune_head=True)
        rate = options_of(model, "lr", layer_decay=0.5)
        last = rate["backbone.encoder.blocks.2.mlp.fc1.weight"]
        assert last == 0.5
        assert rate["backbone.encoder.pos_embed"] == 0.5**4

    @pytest.mark.skipif(is_embedded(), reason="needs Detectron2's groups")
    def test_without_own_keys_they_are_detectron2s(self, model):
        from detectron2.solver import get_default_optimizer_params

        ours = parameter_groups(model, lr=0.1, weight_decay=0.5, weight_decay_norm=0.0)
        theirs = get_default_optimizer_params(
            model, base_lr=0.1, weight_decay=0.5, weight_decay_norm=0.0
        )
        for our, their in zip(ours, theirs, strict=True):
            assert (our["lr"], our["weight_decay"]) == (their["lr"], their["weight_decay"])
            assert [id(p) for p in our["params"]] == [id(p) for p in their["params"]]

    def test_the_log_says_what_learns_how(self, model):
        table = describe_groups(parameter_groups(model, lr=0.25, weight_decay=0.5))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert "0.25" in table and str(count) in table

    def test_layer_decay_needs_a_transformer(self):
        with pytest.raises(UserError, match="VisionTransformerBackbone"):
            parameter_groups(nn.Linear(2, 2), lr=1.0, weight_decay=0.0, layer_decay=0.9)


class TestBuildOptimizer:
    def build(self, tiny_run, *overrides):
        cfg = setup_config(str(tiny_run), ["DATASETS.TEST", "()", *overrides])
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        return build_optimizer(cfg, self.model)

    def test_adamw_has_its_betas(self, tiny_run):
        optimizer = self.build(tiny_run, "SOLVER.BETAS", "(0.8, 0.95)")
        assert isinstance(optimizer, torch.optim.AdamW)
        assert optimizer.defaults["betas"] == (0.8, 0.95)

    def test_full_model_clipping_keeps_the_direction(self, tiny_run):
        clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"]
        clip += ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.OPTIMIZER", "SGD"]
        optimizer = self.build(tiny_run, *clip, "SOLVER.WEIGHT_DECAY", "0.0")
        for number, parameter in enumerate(self.model.parameters()):
            parameter.grad = torch.full_like(parameter, number + 1.0)
        before = [parameter.grad.clone() for parameter in self.model.parameters()]
        optimizer.step()
        after = [parameter.grad for parameter in self.model.parameters()]
        norm = torch.cat([gradient.flatten() for gradient in after]).norm()
        torch.testing.assert_close(norm, torch.tensor(0.5), rtol=1e-4, atol=0)
        ratios = torch.cat([(a / b).flatten() for a, b in zip(after, before)])
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))

    def test_clipping_sees_gradients_that_are_not_scaled(self, tiny_run):
        clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"]
        optimizer = self.build(tiny_run, *clip, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model")
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(0.01 * self.model(torch.ones(1, 3)).sum()).backward()
        expected = [parameter.grad / 1024 for parameter in self.model.parameters()]
        assert sum(gradient.square().sum() for gradient in expected) < 0.25
        scaler.step(optimizer)
        for parameter, gradient in zip(self.model.parameters(), expected):
            torch.testing.assert_close(parameter.grad, gradient)
