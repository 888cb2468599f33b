"""Images of five channels and 16 bits from the file to training, prediction and export."""

import json

import numpy as np
import pytest
import torch
from data_folders import run_script, unique_name, write_image, write_yaml
from train_net_runs import ROOT

from d2_ctxseg.checkpoint import load_weights
from d2_ctxseg.data import DatasetError, SemanticSegmentorMapper
from d2_ctxseg.deployment.export import METADATA_FILE, ImageShape, export_segmentor, load_exported
from d2_ctxseg.deployment.predictor import SemSegPredictor
from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.modeling.backbones.encoder import EncoderBackbone
from d2_ctxseg.modeling.backbones.normalization import compare_normalization
from d2_ctxseg.modeling.backbones.vision_transformer import VisionTransformerBackbone
from d2_ctxseg.utils.errors import UserError
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

CHANNELS, HIGH = 5, 4095


@pytest.fixture
def fields(tmp_path):
    """A dataset in which the fourth channel alone tells the classes apart, and its config."""
    rng = np.random.default_rng(0)
    for index in range(6):
        label = np.repeat(np.repeat(rng.integers(0, 3, (4, 4)), 16, 0), 16, 1)
        image = rng.integers(0, HIGH + 1, (64, 64, CHANNELS)).astype(np.uint16)
        image[..., 3] = label * (HIGH // 2)
        (tmp_path / "images").mkdir(exist_ok=True)
        np.save(tmp_path / f"images/{index}.npy", image)
        write_image(tmp_path / f"labels/{index}.png", label.astype(np.uint8))
    name = unique_name()
    path = write_yaml(tmp_path, name=name, image_suffix=".npy", value_range=[0, HIGH])
    config = tmp_path / "fields.yaml"
    split = f"('{name}_sem_seg_train',)"
    config.write_text(f"""
_BASE_: "{ROOT}/configs/Base-Segmentor.yaml"
DATALOADER: {{NUM_WORKERS: 0}}
DATASETS: {{FOLDERS: ["{path}"], TRAIN: "{split}", TEST: "{split}"}}
INPUT:
  FORMAT: "ALL"
  MIN_SIZE_TRAIN: [64]
  RATIO_RANGE: [0.75, 1.5]
  MIN_SIZE_TEST: 0
  COLOR_AUG_SSD: False
  CROP: {{SIZE: [64, 64]}}
MODEL:
  DEVICE: "cpu"
  PIXEL_MEAN: [127, 127, 127, 127, 127]
  PIXEL_STD: [70, 70, 70, 70, 70]
  ENCODER: {{NAME: "tu-test_resnet", WEIGHTS: ""}}
  SEM_SEG_HEAD:
    NUM_CLASSES: 3
    DECODER: {{NAME: "FPN", OPTIONS: ["pyramid_channels", 32, "segmentation_channels", 32]}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 2, WARMUP_ITERS: 0}}
TEST: {{EVAL_PERIOD: 2, NUM_OVERLAYS: 1, AUG: {{ENABLED: True, RATIOS: [1.0, 1.25]}}}}
OUTPUT_DIR: "{tmp_path / "output"}"
""")
    return config


def test_are_given_to_the_model_with_all_channels_in_full_precision(fields):
    cfg = setup_config(
        str(fields), ["INPUT.RATIO_RANGE", "(1.0, 1.0)", "INPUT.RANDOM_FLIP", "none"]
    )
    [name] = cfg.DATASETS.TRAIN
    record = DatasetCatalog.get(name)[2]
    expected = np.load(record["file_name"]).astype(np.float32) * (255 / HIGH)
    for is_train in (True, False):
        image = SemanticSegmentorMapper(cfg, is_train)(record)["image"]
        assert image.dtype == torch.float32
        np.testing.assert_allclose(image.permute(1, 2, 0), expected, rtol=1e-6)


def test_can_be_trained_on_evaluated_drawn_predicted_and_exported(fields, tmp_path, monkeypatch):
    trainer = Trainer(setup_config(str(fields), []))
    trainer.resume_or_load(resume=False)
    assert trainer.train()["sem_seg"]["mIoU"] >= 0
    assert len(list((tmp_path / "output").rglob("*_0.png"))) == 1

    weights = ["MODEL.WEIGHTS", str(tmp_path / "output/model_final.pth")]
    cfg = setup_config(str(fields), weights, for_inference=True)
    predictor = SemSegPredictor(cfg)
    file_name = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]["file_name"]
    image, shown = predictor.read(file_name)
    assert image.dtype == np.float32 and image.shape == (64, 64, CHANNELS)
    assert shown.dtype == np.uint8 and shown.shape == (64, 64, 3)
    assert Trainer.test_with_TTA(cfg, predictor.model)["sem_seg_TTA"]["mIoU"] >= 0
    labels = predictor(image)
    with pytest.raises(UserError, match="3 channels, but the model takes 5"):
        predictor(shown)

    command = ["--config-file", fields, "--input", file_name, "--output", f"{tmp_path}/drawn/"]
    assert run_script(ROOT / "demo/demo.py", *command, "--opts", *weights) == 0
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["0.npy.png"]

    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    shape = ImageShape(1, 64, 64)
    export_segmentor(model, tmp_path / "model.pt", "torchscript", shape)
    run = load_exported(tmp_path / "model.pt", "torchscript")
    exported = run(torch.from_numpy(image.transpose(2, 0, 1))[None])
    assert (exported[0].numpy() != labels).mean() < 0.01


def test_their_export_says_how_to_read_images(fields, tmp_path):
    model = build_model(setup_config(str(fields), []))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    arguments = ["--config-file", fields, "--format", "torchscript", "--size", 64, 64]
    arguments += ["--output-file", tmp_path / "model.pt"]
    weights = ["--opts", "MODEL.WEIGHTS", tmp_path / "model.pth"]
    assert run_script(ROOT / "tools/export_model.py", *arguments, *weights) == 0
    files = {METADATA_FILE: ""}
    torch.jit.load(str(tmp_path / "model.pt"), _extra_files=files)
    metadata = json.loads(files[METADATA_FILE])
    assert metadata["image_format"] == "ALL"
    assert json.loads(metadata["value_range"]) == [0, HIGH]
    assert len(json.loads(metadata["padding"])) == CHANNELS


def test_must_be_as_many_as_the_model_takes(fields):
    four = ["MODEL.PIXEL_MEAN", "[1, 1, 1, 1]", "MODEL.PIXEL_STD", "[1, 1, 1, 1]"]
    cfg = setup_config(str(fields), four)
    mapper = SemanticSegmentorMapper(cfg, is_train=False)
    with pytest.raises(DatasetError, match="has 5 channels, but MODEL.PIXEL_MEAN has 4 values"):
        mapper(DatasetCatalog.get(cfg.DATASETS.TEST[0])[0])


def test_are_not_changed_in_colour(fields):
    with pytest.raises(UserError, match="Set INPUT.COLOR_AUG_SSD to False"):
        setup_config(str(fields), ["INPUT.COLOR_AUG_SSD", "True"])


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    ("backbone", "name", "first"),
    [
        (EncoderBackbone, "tu-test_resnet", "model.conv1.0.weight"),
        (EncoderBackbone, "resnet18", "conv1.weight"),
        (VisionTransformerBackbone, "vit_tiny_patch16_224", "patch_embed.proj.weight"),
    ],
)
def test_their_encoder_starts_from_weights_for_three(tmp_path, backbone, name, first, channels):
    """As timm adapts the first convolution: repeated, with the same sum for equal channels."""
    options = {"out_indices": (0,)} if backbone is VisionTransformerBackbone else {}
    three = backbone(name=name, **options).encoder
    state = three.state_dict()
    torch.save({key.removeprefix("model."): state[key] for key in state}, tmp_path / "w.pth")
    encoder = backbone(name=name, weights=str(tmp_path / "w.pth"), in_channels=channels, **options)
    weight, of_three = encoder.encoder.state_dict()[first], state[first]
    assert weight.shape[1] == channels
    if channels == 1:
        torch.testing.assert_close(weight, of_three.sum(1, keepdim=True))
    else:
        repeated = of_three.repeat(1, 2, 1, 1)[:, :channels]
        torch.testing.assert_close(weight, repeated * 3 / channels)


def test_pretrained_weights_for_them_are_announced(fields, caplog):
    caplog.set_level("INFO", logger="d2_ctxseg.modeling.backbones.normalization")
    cfg = setup_config(str(fields), ["MODEL.ENCODER.WEIGHTS", "imagenet"])
    compare_normalization(cfg)
    assert "Images have 5 channels: the first convolution" in caplog.text
    assert "WARNING" not in caplog.text
