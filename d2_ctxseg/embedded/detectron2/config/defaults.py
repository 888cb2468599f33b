"""Every config key of Detectron2 that is covered here, with Detectron2's default value.

Plain data. It is Python and not YAML because some values are tuples and some are lists: a config
file may give either, and the default decides which it becomes. Values that name something not
covered (``GeneralizedRCNN``) are kept, so that a config means the same in both runtimes.
What each key does: https://detectron2.readthedocs.io/en/latest/modules/config.html
"""

MODEL = {
    "DEVICE": "cuda",
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "WEIGHTS": "",
    # In the order of INPUT.FORMAT, in the range [0, 255].
    "PIXEL_MEAN": [103.53, 116.28, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "BACKBONE": {
        "NAME": "build_resnet_backbone",
        # Stages up to this one are frozen: 0 none, 1 the stem, 2 stem and res2, ...
        "FREEZE_AT": 2,
    },
    "FPN": {
        "IN_FEATURES": [],
        "OUT_CHANNELS": 256,
        "NORM": "",
        # How top-down and lateral maps are joined: "sum" or "avg".
        "FUSE_TYPE": "sum",
    },
    "RESNETS": {
        "DEPTH": 50,
        "OUT_FEATURES": ["res4"],
        # More than one group makes it a ResNeXt.
        "NUM_GROUPS": 1,
        "NORM": "FrozenBN",
        "WIDTH_PER_GROUP": 64,
        # True for the weights of MSRA, False for those of torchvision.
        "STRIDE_IN_1X1": True,
        "RES5_DILATION": 1,
        # ResNet-18 and -34 need 64.
        "RES2_OUT_CHANNELS": 256,
        "STEM_OUT_CHANNELS": 64,
        # Deformable convolution in res2, res3, res4, res5.
        "DEFORM_ON_PER_STAGE": [False, False, False, False],
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    },
    "SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        # Pixels with this label count in neither loss nor evaluation.
        "IGNORE_VALUE": 255,
        "NUM_CLASSES": 54,
        "CONVS_DIM": 128,
        # The stride of the head's logits.
        "COMMON_STRIDE": 4,
        "NORM": "GN",
        "LOSS_WEIGHT": 1.0,
    },
}

INPUT = {
    "MIN_SIZE_TRAIN": (800,),
    # "choice" of MIN_SIZE_TRAIN's values, or "range" between its two.
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    # 0 turns resizing off in testing.
    "MIN_SIZE_TEST": 800,
    "MAX_SIZE_TEST": 1333,
    # "horizontal", "vertical" or "none".
    "RANDOM_FLIP": "horizontal",
    "CROP": {
        "ENABLED": False,
        # "relative_range", "relative", "absolute" or "absolute_range".
        "TYPE": "relative_range",
        # Pixels if the type is an absolute one, otherwise a part in (0, 1]. Height first.
        "SIZE": [0.9, 0.9],
    },
    "FORMAT": "BGR",
    "MASK_FORMAT": "polygon",
}

DATASETS = {
    "TRAIN": (),
    "PROPOSAL_FILES_TRAIN": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "TEST": (),
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

DATALOADER = {
    # Per process.
    "NUM_WORKERS": 4,
    # Batches hold only portrait or only landscape images: less padding.
    "ASPECT_RATIO_GROUPING": True,
    "SAMPLER_TRAIN": "TrainingSampler",
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
    "FILTER_EMPTY_ANNOTATIONS": True,
}

SOLVER = {
    # "WarmupMultiStepLR", "WarmupCosineLR" or "WarmupStepWithFixedGammaLR".
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "MAX_ITER": 40000,
    "BASE_LR": 0.001,
    # Where the cosine ends.
    "BASE_LR_END": 0.0,
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    # For the parameters of normalization layers.
    "WEIGHT_DECAY_NORM": 0.0,
    # The rate is multiplied by GAMMA at each of STEPS.
    "GAMMA": 0.1,
    "STEPS": (30000,),
    "NUM_DECAYS": 3,
    # The rate at iteration 0 is this times BASE_LR.
    "WARMUP_FACTOR": 0.001,
    "WARMUP_ITERS": 1000,
    "WARMUP_METHOD": "linear",
    # Whether the schedule starts when warm-up ends, or runs below it.
    "RESCALE_INTERVAL": False,
    "CHECKPOINT_PERIOD": 5000,
    # Over all processes.
    "IMS_PER_BATCH": 16,
    # If not 0: the number of processes the config is written for; the trainer scales batch
    # size, rate and iterations to the actual number.
    "REFERENCE_WORLD_SIZE": 0,
    "BIAS_LR_FACTOR": 1.0,
    # None: as WEIGHT_DECAY.
    "WEIGHT_DECAY_BIAS": None,
    "CLIP_GRADIENTS": {
        "ENABLED": False,
        # "value" clips each element, "norm" each parameter's norm.
        "CLIP_TYPE": "value",
        "CLIP_VALUE": 1.0,
        "NORM_TYPE": 2.0,
    },
    # Mixed precision in training.
    "AMP": {"ENABLED": False},
}

TEST = {
    # Items [task, metric, value, tolerance] that the results are checked against.
    "EXPECTED_RESULTS": [],
    # In iterations; 0 turns evaluation in training off.
    "EVAL_PERIOD": 0,
    "DETECTIONS_PER_IMAGE": 100,
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
}

DEFAULTS = {
    "VERSION": 2,
    "MODEL": MODEL,
    "INPUT": INPUT,
    "DATASETS": DATASETS,
    "DATALOADER": DATALOADER,
    "SOLVER": SOLVER,
    "TEST": TEST,
    "OUTPUT_DIR": "./output",
    # Negative: a new seed each time.
    "SEED": -1,
    "CUDNN_BENCHMARK": False,
    # "highest", "high" or "medium"; "" leaves torch's setting.
    "FLOAT32_PRECISION": "",
    # In iterations; 0 turns drawings in training off.
    "VIS_PERIOD": 0,
    "GLOBAL": {"HACK": 1.0},
}

# What Detectron2 has beyond that. In a config file these keys are left out, with a warning.
NOT_COVERED = (
    "MODEL.LOAD_PROPOSALS",
    "MODEL.MASK_ON",
    "MODEL.KEYPOINT_ON",
    "MODEL.PROPOSAL_GENERATOR",
    "MODEL.ANCHOR_GENERATOR",
    "MODEL.RPN",
    "MODEL.ROI_HEADS",
    "MODEL.ROI_BOX_HEAD",
    "MODEL.ROI_BOX_CASCADE_HEAD",
    "MODEL.ROI_MASK_HEAD",
    "MODEL.ROI_KEYPOINT_HEAD",
    "MODEL.PANOPTIC_FPN",
    "MODEL.RETINANET",
    "MODEL.POINT_HEAD",
    "MODEL.IMPLICIT_POINTREND",
    "TEST.KEYPOINT_OKS_SIGMAS",
)
