"""Encoders that are frozen in part."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_ctxseg.engine import setup_config
from d2_ctxseg.engine.ema import build_ema
from d2_ctxseg.engine.optimizer import parameter_groups
from d2_ctxseg.modeling import EncoderBackbone, VisionTransformerBackbone
from d2_ctxseg.modeling.backbones.freezing import describe_trained_parameters
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_backbone, build_model

VIT = "vit_tiny_patch16_224"
SWIN = "tu-swin_tiny_patch4_window7_224"
MAPS = ("res1", "res2", "res3", "res4", "res5")
# Of encoders of both libraries, with norms and stages of different kinds: which parameters are
# frozen at 2, by the beginnings of their names.
STEM_AND_RES2 = {
    "resnet18": ("conv1", "bn1", "layer1"),
    "tu-resnet18": ("model.conv1", "model.bn1", "model.layer1"),
    "efficientnet-b0": ("_conv_stem", "_bn0", "_blocks.0", "_blocks.1.", "_blocks.2."),
    "tu-tf_efficientnet_lite0": (
        *("model.conv_stem", "model.bn1", "model.blocks.0", "model.blocks.1"),
    ),
    "mit_b0": ("patch_embed1", "block1", "norm1"),
    SWIN: ("model.patch_embed", "model.layers_0"),
    "tu-convnext_atto": ("model.stem_0", "model.stem_1", "model.stages_0"),
}
every_encoder = pytest.mark.parametrize(("name", "prefixes"), STEM_AND_RES2.items())


def frozen_names(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def loss_of(features) -> torch.Tensor:
    return sum(x.square().mean() for key, x in features.items() if key != "res0" and x.numel())


def train_step(backbone: nn.Module, image=None) -> dict[str, torch.Tensor]:
    """One step of gradient descent; the parameters and buffers before it."""
    before = copy.deepcopy(backbone.state_dict())
    trained = [p for p in backbone.parameters() if p.requires_grad]
    loss_of(backbone(torch.randn(2, 3, 64, 64) if image is None else image)).backward()
    with torch.no_grad():
        for p in trained:
            p -= p.grad.sign() * 0.01
    return before


@every_encoder
class TestEncoders:
    def test_freeze_stem_and_stage(self, name, prefixes):
        backbone = EncoderBackbone(name=name, freeze_at=2)
        unused = frozen_names(EncoderBackbone(name=name))
        expected = {
            key
            for key, _ in backbone.named_parameters()
            if key.removeprefix("encoder.").startswith(prefixes)
        }
        assert frozen_names(backbone) - unused == expected and expected

    def test_a_step_leaves_what_is_frozen_as_it_is_and_changes_the_rest(self, name, prefixes):
        backbone = EncoderBackbone(name=name, freeze_at=2).train()
        before = train_step(backbone)
        frozen = frozen_names(backbone)
        for key, value in backbone.state_dict().items():
            if key in frozen or f"{key.rpartition('.')[0]}.weight" in frozen:
                assert torch.equal(value, before[key]), key
            elif key.endswith("running_mean"):
                assert not torch.equal(value, before[key]), key
        trained = {key: p.grad for key, p in backbone.named_parameters() if p.requires_grad}
        assert trained and not [key for key, gradient in trained.items() if gradient is None]


class TestStages:
    def test_each_number_freezes_one_more_stage_of_resnet(self):
        stages = ("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)
        for number in range(1, 6):
            backbone = EncoderBackbone(name="resnet18", freeze_at=number)
            expected = tuple(f"encoder.{part}" for stage in stages[:number] for part in stage)
            names = {key for key, _ in backbone.named_parameters() if key.startswith(expected)}
            assert frozen_names(backbone) == names

    def test_0_freezes_nothing(self):
        backbone = EncoderBackbone(name="resnet18").train()
        assert frozen_names(backbone) == set() and backbone.freeze_at == 0
        assert all(module.training for module in backbone.modules())

    def test_5_freezes_everything_but_the_norms_of_the_feature_maps(self):
        backbone = EncoderBackbone(name="tu-hrnet_w18_small", freeze_at=5, output_norm=True)
        trained = {key for key, p in backbone.named_parameters() if p.requires_grad}
        assert trained == {key for key, _ in backbone.named_parameters() if "output_norms" in key}
        assert not any(module.training for module in backbone.encoder.modules())

    @pytest.mark.parametrize(
        ("name", "freeze_at", "message"),
        [
            ("resnet18", -1, r"FREEZE_AT is -1, expected a number from 0 .* to 5 \(the whole"),
            ("resnet18", 6, "FREEZE_AT is 6, expected a number from 0 .* to 5"),
            ("mit_b0", 1, "'mit_b0' cannot .* no feature map of stride 2.* one of 0, 2, 3, 4, 5"),
            ("tu-hrnet_w18_small", 2, "not computed from res2 alone. Choose one of 0, 1, 5"),
            ("tu-hrnet_w18_small", 4, "not computed from res2 alone. Choose one of 0, 1, 5"),
            ("tu-maxvit_tiny_tf_224", 2, r"could not be separated \(.*\). Choose one of 0, 5"),
        ],
    )
    def test_what_an_encoder_cannot_do_is_refused(self, name, freeze_at, message):
        with torch.device("meta"), pytest.raises(UserError, match=message):
            EncoderBackbone(name=name, freeze_at=freeze_at)

    def test_hrnets_stem_can_be_frozen(self):
        with torch.device("meta"):
            backbone = EncoderBackbone(name="tu-hrnet_w18_small", freeze_at=1)
        assert {name.split(".")[2] for name in frozen_names(backbone)} == {"conv1", "bn1"}


class TestVisionTransformer:
    def build(self, freeze_at, **options):
        return VisionTransformerBackbone(
            name=VIT, **{"out_indices": (1, 3), "freeze_at": freeze_at, **options}
        )

    @pytest.mark.parametrize("freeze_at", range(6))
    def test_freezes_the_embedding_and_the_first_blocks(self, freeze_at):
        backbone = self.build(freeze_at)
        before_blocks = ("encoder.patch_embed", "encoder.pos_embed", "encoder.cls_token")
        blocks = tuple(f"encoder.blocks.{i}." for i in range(freeze_at - 1))
        names = {key for key, _ in backbone.named_parameters()}
        expected = {key for key in names if key.startswith((*before_blocks, *blocks))}
        assert frozen_names(backbone) == (expected if freeze_at else set())
        assert (frozen_names(backbone) == names) == (freeze_at == 5)

    def test_register_tokens_are_frozen_too(self):
        backbone = VisionTransformerBackbone(
            name="vit_small_patch14_reg4_dinov2", out_indices=(0,), freeze_at=1
        )
        trained = {key for key, p in backbone.named_parameters() if p.requires_grad}
        assert {key.rsplit("blocks.0.")[0] for key in trained} == {"encoder."}

    @pytest.mark.parametrize("freeze_at", [-1, 6])
    def test_numbers_out_of_range_are_refused(self, freeze_at):
        with pytest.raises(UserError, match=r"from 0 .* to 5 \(all of the 4 blocks\)"):
            self.build(freeze_at)

    def test_the_pyramid_is_trained_all_the_same(self):
        backbone = self.build(5, out_indices=(0, 1, 2, 3), pyramid=True)
        assert all(key.startswith("encoder.") for key in frozen_names(backbone))
        loss_of(backbone(torch.randn(1, 3, 64, 64))).backward()
        assert all(p.grad is not None for p in backbone.pyramid.parameters())

    def test_stochastic_depth_of_frozen_blocks_is_off(self):
        backbone = self.build(5, drop_path_rate=0.9).train()
        image = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(backbone(image), backbone(image))
        assert self.build(0, drop_path_rate=0.9).train().encoder.blocks[3].training

    def test_layer_decay_counts_frozen_layers(self):
        """The rate of a block does not depend on how many others are frozen."""
        rates = []
        for freeze_at in (0, 3):
            model = nn.Module()
            model.backbone = self.build(freeze_at)
            groups = parameter_groups(model, lr=1.0, weight_decay=0.0, layer_decay=0.5)
            rate = {p: group["lr"] for group in groups for p in group["params"]}
            rates.append(rate[model.backbone.encoder.blocks[2].mlp.fc1.weight])
            assert model.backbone.encoder.pos_embed in rate or freeze_at
        assert rates == [0.25, 0.25]


class TestTraining:
    def test_frozen_norms_stay_in_eval_mode(self):
        backbone = EncoderBackbone(name="resnet18", freeze_at=3)
        for mode in (None, False, True, True):
            if mode is not None:
                backbone.train(mode)
            in_training = {
                key.split(".")[0] for key, m in backbone.encoder.named_modules() if m.training
            }
            assert not in_training & {"conv1", "bn1", "layer1", "layer2"}
            assert ("layer3" in in_training) == (mode is not False)
        assert backbone.training

    def test_stays_so_with_batch_norm_over_workers(self):
        """MODEL.SYNC_BN puts other modules in the places of the norms."""
        backbone = EncoderBackbone(name="resnet18", freeze_at=2)
        backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone).train()
        norms = {n: m for n, m in backbone.named_modules() if isinstance(m, nn.SyncBatchNorm)}
        frozen = {name for name, norm in norms.items() if not norm.training}
        assert frozen == {n for n in norms if n.startswith(("encoder.bn1", "encoder.layer1"))}

    @pytest.mark.parametrize("freeze_at", [0, 2, 5])
    def test_features_are_those_of_eval_mode_where_all_is_frozen_before(self, freeze_at):
        backbone = EncoderBackbone(name="resnet18", freeze_at=freeze_at)
        image = torch.randn(2, 3, 64, 64)
        trained, evaluated = backbone.train()(image), backbone.eval()(image)
        equal = [torch.equal(trained[key], evaluated[key]) for key in MAPS]
        assert equal == [number <= freeze_at for number in range(1, 6)]

    @pytest.mark.parametrize("name", ["resnet18", "mit_b0"])
    def test_activation_checkpointing_changes_nothing(self, name):
        usual = EncoderBackbone(name=name, freeze_at=3, drop_path_rate=0.0)
        saving = EncoderBackbone(name=name, freeze_at=3, activation_checkpointing=True)
        saving.load_state_dict(usual.state_dict())
        image = torch.randn(2, 3, 64, 64)
        for backbone in (usual, saving):
            loss_of(backbone.train()(image)).backward()
        assert frozen_names(usual) == frozen_names(saving)
        for ours, theirs in zip(usual.parameters(), saving.parameters()):
            torch.testing.assert_close(ours.grad, theirs.grad)
        torch.testing.assert_close(dict(usual.named_buffers()), dict(saving.named_buffers()))

    def test_ema_of_the_weights_follows(self):
        backbone = EncoderBackbone(name="resnet18", freeze_at=2).train()
        ema = build_ema(backbone, 0.9)
        ema.update_parameters(backbone)
        before = train_step(backbone)
        ema.update_parameters(backbone)
        after = ema.module.state_dict()
        assert torch.equal(
            after["encoder.layer1.0.conv1.weight"], before["encoder.layer1.0.conv1.weight"]
        )
        assert torch.equal(after["encoder.bn1.running_mean"], before["encoder.bn1.running_mean"])
        assert not torch.equal(
            after["encoder.layer2.0.conv1.weight"], before["encoder.layer2.0.conv1.weight"]
        )

    def test_the_optimizer_has_trained_parameters_only(self):
        backbone = EncoderBackbone(name="tu-mobilenetv2_100", freeze_at=4, output_stride=8)
        groups = parameter_groups(backbone, lr=1.0, weight_decay=0.0)
        trained = {p for group in groups for p in group["params"]}
        assert trained == {p for p in backbone.parameters() if p.requires_grad}
        assert 0 < len(trained) < len(list(backbone.parameters()))

    @pytest.mark.parametrize("freeze_at", [2, 5])
    def test_distributed_training_finds_no_unused_parameters(self, freeze_at, tiny_config):
        tiny_config.MODEL.BACKBONE.FREEZE_AT = freeze_at
        model = build_model(tiny_config)
        image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
        inputs = [{"image": image, "sem_seg": torch.randint(0, 5, (64, 64))}] * 2
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            distributed = DistributedDataParallel(model).train()
            for _ in range(2):  # the second forward notices what the first left without gradient
                sum(distributed(inputs).values()).backward()
        finally:
            torch.distributed.destroy_process_group()
        assert not model.backbone.encoder.layer1.training

    def test_checkpoints_of_other_numbers_load(self):
        backbone = EncoderBackbone(name="resnet18", freeze_at=3)
        backbone.load_state_dict(EncoderBackbone(name="resnet18").state_dict())
        EncoderBackbone(name="resnet18").load_state_dict(backbone.state_dict())


class TestConfig:
    def test_arrives(self, tiny_config):
        tiny_config.MODEL.BACKBONE.FREEZE_AT = 3
        assert build_backbone(tiny_config).freeze_at == 3
        tiny_config.MODEL.BACKBONE.NAME = "VisionTransformerBackbone"
        tiny_config.MODEL.ENCODER.NAME = VIT
        assert build_backbone(tiny_config).freeze_at == 3

    def test_frozen_random_weights_are_warned_of_in_training(self, tiny_run, caplog):
        opts = ["MODEL.BACKBONE.FREEZE_AT", "2"]
        setup_config(str(tiny_run), [*opts, "MODEL.WEIGHTS", "model.pth"])
        setup_config(str(tiny_run), opts, for_inference=True)
        setup_config(str(tiny_run), [])
        assert "FREEZE_AT" not in caplog.text
        setup_config(str(tiny_run), opts)
        assert "FREEZE_AT is 2, but MODEL.ENCODER.WEIGHTS" in caplog.text

    def test_the_log_has_a_table_of_what_is_trained(self, caplog):
        caplog.set_level(logging.INFO, logger="d2_ctxseg.modeling.backbones.freezing")
        backbone = EncoderBackbone(name="resnet18", freeze_at=2, output_norm=True)
        rows = [
            [cell.strip() for cell in row.strip("|").split("|")]
            for row in describe_trained_parameters(backbone).splitlines()[2:]
        ]
        assert rows[0] == ["encoder.conv1", "9,408", "0"]
        assert [row[0] for row in rows] == [
            *("encoder.conv1", "encoder.bn1", "encoder.layer1", "encoder.layer2"),
            *("encoder.layer3", "encoder.layer4", "output_norms", "all"),
        ]
        assert rows[-1][1:] == ["11,178,432", "11,020,928"]
        assert "FREEZE_AT is 2" in caplog.text and "encoder.layer1" in caplog.text
        caplog.clear()
        EncoderBackbone(name="resnet18")
        assert caplog.text == ""
