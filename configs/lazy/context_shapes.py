"""ContextShapes in Detectron2's LazyConfig, for its lazyconfig_train_net.py.

    python DETECTRON2/tools/lazyconfig_train_net.py --config-file configs/lazy/context_shapes.py

It needs Detectron2. The same model in YAML is configs/quickstart.yaml.
"""

import torch
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from d2_ctxseg.classifiers import ContextAwareClassifier
from d2_ctxseg.data import ResizeForTest, SemanticSegmentorMapper, generate_missing, label_formats
from d2_ctxseg.evaluation import SegmentationEvaluator
from d2_ctxseg.modeling.backbones import EncoderBackbone
from d2_ctxseg.modeling.compose import compose_segmentor
from d2_ctxseg.modeling.heads import SMPDecoderHead
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params

TRAIN, TEST, NUM_CLASSES = "context_shapes_sem_seg_train", "context_shapes_sem_seg_val", 6
ITERATIONS = 300
generate_missing([TRAIN])

model = L(compose_segmentor)(
    backbone=L(EncoderBackbone)(name="tu-test_resnet"),
    sem_seg_head=L(SMPDecoderHead)(
        input_shape={
            "res0": L(ShapeSpec)(channels=3, stride=1),
            "res1": L(ShapeSpec)(channels=32, stride=2),
            "res2": L(ShapeSpec)(channels=32, stride=4),
            "res3": L(ShapeSpec)(channels=48, stride=8),
            "res4": L(ShapeSpec)(channels=192, stride=16),
            "res5": L(ShapeSpec)(channels=96, stride=32),
        },
        decoder="FPN",
        decoder_options={"pyramid_channels": 32, "segmentation_channels": 32},
        num_classes=NUM_CLASSES,
    ),
    classifier=L(ContextAwareClassifier)(in_channels=32, num_classes=NUM_CLASSES),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

dataloader = {
    "train": L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names=TRAIN, filter_empty=False),
        mapper=L(SemanticSegmentorMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomCrop)(crop_type="absolute", crop_size=[96, 96]),
                L(T.RandomFlip)(),
            ],
            image_format="RGB",
            ignore_value=255,
            label_formats=L(label_formats)(names=[TRAIN]),
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    "test": L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names=TEST, filter_empty=False),
        mapper=L(SemanticSegmentorMapper)(
            is_train=False,
            augmentations=[L(ResizeForTest)(short_edge_length=0, max_size=2048)],
            image_format="RGB",
            ignore_value=255,
            label_formats={},
        ),
        num_workers=0,
    ),
    "evaluator": L(SegmentationEvaluator)(dataset_name=TEST),
}

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=1e-3, weight_decay=0.01
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9),
    warmup_length=20 / ITERATIONS,
    warmup_factor=0.01,
)

train = {
    "output_dir": "./output/lazy",
    "init_checkpoint": "",
    "max_iter": ITERATIONS,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
    "checkpointer": {"period": 100, "max_to_keep": 3},
    "eval_period": 100,
    "log_period": 20,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
}
