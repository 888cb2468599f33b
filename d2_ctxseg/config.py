"""The config keys that this project adds to Detectron2's, each with a comment."""

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config


def add_ctxseg_config(cfg: CN) -> None:
    """Add this project's keys to ``cfg`` (the result of ``detectron2.config.get_cfg()``).

    DeepLab's keys are added as well, for the poly schedule (``SOLVER.POLY_LR_*``) and the crop rule
    (``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``). So are PointRend's, if Detectron2 is installed.
    """
    # Python files, or names of modules, that are imported before the config is used: what they
    # register (heads, classifiers, backbones, datasets) can be named in it. A file's path is
    # relative to the config that states it. A training copies the files into its OUTPUT_DIR.
    cfg.IMPORTS = []
    _add_pointrend_config(cfg)
    add_deeplab_config(cfg)
    _add_data_config(cfg)
    _add_model_config(cfg)
    _add_head_config(cfg)
    _add_keys_of_earlier_versions(cfg)
    _add_classifier_config(cfg)
    _add_pixel_loss_config(cfg)
    _add_solver_config(cfg)
    _add_test_config(cfg)


def _add_pointrend_config(cfg: CN) -> None:
    try:
        # The import registers PointRend's head.
        from detectron2.projects.point_rend import add_pointrend_config
    except ImportError:  # the embedded runtime does not have it
        return
    add_pointrend_config(cfg)


def _add_data_config(cfg: CN) -> None:
    # YAML files, each the description of a dataset of your own (docs/DATASETS.md). They are
    # registered before training; name their splits in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.FOLDERS = []
    # What these files say, and the classes of datasets that Python code has registered. A run
    # writes it into its config.yaml, which then needs no other file. You need not write it.
    cfg.DATASETS.DESCRIPTIONS = []
    # Generate synthetic datasets (ContextShapes) of DATASETS.TRAIN/TEST that are not on disk yet.
    cfg.DATASETS.GENERATE_MISSING = False

    # Besides "BGR" and "RGB", Detectron2's INPUT.FORMAT may be "ALL": all channels of the image
    # files in their order, as floating-point numbers. MODEL.PIXEL_MEAN and PIXEL_STD then have one
    # value per channel (docs/DATASETS.md).

    # Training images are resized to MIN_SIZE_TRAIN and MAX_SIZE_TRAIN, both multiplied with a ratio
    # drawn uniformly from this range. (1.0, 1.0) turns it off.
    cfg.INPUT.RATIO_RANGE = (1.0, 1.0)
    # The aspect ratio of a training image is then multiplied with a number drawn uniformly from
    # this range; its area does not change. (1.0, 1.0) turns it off; ProtoSeg uses (0.9, 1.1).
    cfg.INPUT.ASPECT_RANGE = (1.0, 1.0)
    # Downscale images with antialiasing (Pillow, as in Detectron2), in training and testing. False:
    # interpolate between four pixels (OpenCV, as in mmsegmentation).
    cfg.INPUT.ANTIALIAS = True
    # A second resize rounds the sides of test images, and of the views of multi-scale testing, up
    # to multiples of this. 1: no second resize; SegFormer on ADE20K uses 32.
    cfg.INPUT.SIZE_DIVISIBILITY_TEST = 1
    # Random brightness, contrast, saturation and hue, as in SSD.
    cfg.INPUT.COLOR_AUG_SSD = False
    # A random integer between minus this and this is added to all values of a training image. 0
    # turns it off; ProtoSeg uses 10.
    cfg.INPUT.BRIGHTNESS_SHIFT = 0
    # Pad training images (with the mean pixel) and labels (with the ignore label) on the right and
    # at the bottom to the crop size, so that all batches have one shape. Needs CROP.TYPE
    # "absolute". A classifier that estimates a context includes this padding, as in the authors'
    # code; it leaves out only the padding that the model adds to a batch.
    cfg.INPUT.PAD_TO_CROP = True


def _add_model_config(cfg: CN) -> None:
    # The encoder of MODEL.BACKBONE.NAME "EncoderBackbone" or "VisionTransformerBackbone".
    cfg.MODEL.ENCODER = CN()
    # A name of segmentation-models-pytorch ("resnet18", "mit_b0", "mobilenet_v2") or, with the
    # prefix "tu-", of timm ("tu-convnext_tiny"). For VisionTransformerBackbone, of timm.
    cfg.MODEL.ENCODER.NAME = "resnet18"
    # "imagenet" (or another name of the encoder's weights): pretrained weights, which are
    # downloaded. "": random weights. Otherwise the path of a local .pth or .safetensors file.
    cfg.MODEL.ENCODER.WEIGHTS = "imagenet"
    # The stride of the deepest feature map: 32, 16 or 8 (the latter two with dilation).
    cfg.MODEL.ENCODER.OUTPUT_STRIDE = 32
    # Blocks of VisionTransformerBackbone, counted from 0, whose outputs are the feature maps
    # "block5", "block7", ...
    cfg.MODEL.ENCODER.OUT_INDICES = (5, 7, 11)
    # Stochastic depth: the probability of skipping a branch of the last block in training; lower in
    # earlier blocks. For MiT and those encoders of timm that support it; 0.0 turns it off.
    cfg.MODEL.ENCODER.DROP_PATH_RATE = 0.0
    # LayerNorm over the channels of each feature map, as in segmentors with Swin.
    cfg.MODEL.ENCODER.OUTPUT_NORM = False
    # VisionTransformerBackbone: turn the outputs of four blocks into "res2" to "res5" (strides 4 to
    # 32), as in BEiT, for heads that need a pyramid.
    cfg.MODEL.ENCODER.PYRAMID = False
    # Recompute the encoder's activations in the backward pass instead of storing them.
    cfg.MODEL.ENCODER.ACTIVATION_CHECKPOINTING = False
    # Detectron2's MODEL.BACKBONE.FREEZE_AT applies to these encoders: 0 freezes nothing, 1 the
    # stem, n also the stages up to "res{n}", 5 everything. In VisionTransformerBackbone, 1 freezes
    # everything before the blocks, n also the first n - 1 blocks. Detectron2's default is 2; the
    # configs of this project set 0.
    #
    # Where a config does not state Detectron2's MODEL.PIXEL_MEAN and PIXEL_STD, they are those of
    # the encoder's pretrained weights (engine/setup.py).

    # Synchronise the batch statistics of BatchNorm over all workers (GPUs only).
    cfg.MODEL.SYNC_BN = False
    # The channels-last memory format: faster on GPUs with tensor cores.
    cfg.MODEL.CHANNELS_LAST = False
    # torch.compile the backbone, for training and evaluation.
    cfg.MODEL.COMPILE = False

    # An FCN head on an intermediate feature map, used in training only.
    cfg.MODEL.AUXILIARY_HEAD = CN()
    cfg.MODEL.AUXILIARY_HEAD.ENABLED = False
    cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE = "res4"
    cfg.MODEL.AUXILIARY_HEAD.CHANNELS = 256
    cfg.MODEL.AUXILIARY_HEAD.NUM_CONVS = 1
    cfg.MODEL.AUXILIARY_HEAD.DROPOUT = 0.1
    cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT = 0.4


def _add_head_config(cfg: CN) -> None:
    # Detectron2's MODEL.SEM_SEG_HEAD.IN_FEATURES names the feature maps of all heads below except
    # SMPDecoderHead, from shallow to deep. Where it has Detectron2's default, the maps of an FPN,
    # and the backbone has none of these, the head's default applies: "res5" (FCNHead, PSPHead),
    # "res2" and "res5" (DepthwiseSeparableASPPHead), all (SegViTHead), "res2" to "res5" (others).
    #
    # The heads below ignore Detectron2's MODEL.SEM_SEG_HEAD.NORM and have the normalisation of
    # their papers, mostly BatchNorm. They cannot follow the key without breaking checkpoints: its
    # default is "GN", which every saved config.yaml contains, whatever the head was trained with.
    # Other values cause a warning.

    # The decoder of MODEL.SEM_SEG_HEAD.NAME "SMPDecoderHead".
    cfg.MODEL.SEM_SEG_HEAD.DECODER = CN()
    # A decoder of segmentation-models-pytorch: "UPerNet", "FPN", "Segformer", "PSPNet", ...
    cfg.MODEL.SEM_SEG_HEAD.DECODER.NAME = "UPerNet"
    # Keyword arguments of that decoder, as [name, value, name, value, ...].
    cfg.MODEL.SEM_SEG_HEAD.DECODER.OPTIONS = []

    _add_own_heads_config(cfg)
    _add_ece_head_config(cfg)
    _add_segvit_head_config(cfg)


def _add_ece_head_config(cfg: CN) -> None:
    # ECENet's head (ICCV 2023), MODEL.SEM_SEG_HEAD.NAME "ECEHead".
    cfg.MODEL.ECE_HEAD = CN()
    # Channels of embeddings, attention and pixel features.
    cfg.MODEL.ECE_HEAD.CHANNELS = 256
    # Attention heads, and groups of the seed mask's first convolution; a divisor of CHANNELS.
    cfg.MODEL.ECE_HEAD.NUM_HEADS = 4
    # Masks are pooled to grids of up to sqrt(number of classes) times this.
    cfg.MODEL.ECE_HEAD.POOL_RATIO = 1.0
    # The head's modules; False leaves one out.
    cfg.MODEL.ECE_HEAD.FEATURE_RECONSTRUCTION = True
    cfg.MODEL.ECE_HEAD.SEMANTICS_ATTENTION = True
    # How the next mask updates the embeddings: "gated", "add" or "none".
    cfg.MODEL.ECE_HEAD.UPDATER = "gated"
    # Upsampling by ghost modules and pixel shuffle; False: bilinear.
    cfg.MODEL.ECE_HEAD.GHOST_UPSAMPLE = True
    # Whether masks and class embeddings are added to the prediction.
    cfg.MODEL.ECE_HEAD.ASSISTED_PREDICTION = True
    cfg.MODEL.ECE_HEAD.DROPOUT = 0.1
    # The binary mask loss: "focal" (as in SegViT) or "bce". The paper does not state its choice.
    cfg.MODEL.ECE_HEAD.MASK_LOSS = "focal"
    # Weights of the losses; 0 turns one off.
    cfg.MODEL.ECE_HEAD.LOSS_WEIGHT_MASK = 5.0
    cfg.MODEL.ECE_HEAD.LOSS_WEIGHT_DICE = 2.0
    cfg.MODEL.ECE_HEAD.LOSS_WEIGHT_DIVERSITY = 0.2


def _add_segvit_head_config(cfg: CN) -> None:
    # SegViT's head (NeurIPS 2022), MODEL.SEM_SEG_HEAD.NAME "SegViTHead".
    cfg.MODEL.SEGVIT_HEAD = CN()
    # Channels of the class tokens; in the authors' code half of the backbone's.
    cfg.MODEL.SEGVIT_HEAD.CHANNELS = 384
    # Attention heads, and decoder layers per feature map.
    cfg.MODEL.SEGVIT_HEAD.NUM_HEADS = 12
    cfg.MODEL.SEGVIT_HEAD.NUM_LAYERS = 3
    cfg.MODEL.SEGVIT_HEAD.DROPOUT = 0.1
    # "learned" tokens (SegViT) or "explicit" embeddings made from masks (ECENet).
    cfg.MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS = "learned"
    cfg.MODEL.SEGVIT_HEAD.LOSS_WEIGHT_CLASS = 1.0
    cfg.MODEL.SEGVIT_HEAD.LOSS_WEIGHT_MASK = 20.0
    cfg.MODEL.SEGVIT_HEAD.LOSS_WEIGHT_DICE = 1.0
    # Weight of the tokens of absent classes in the classification loss.
    cfg.MODEL.SEGVIT_HEAD.NO_OBJECT_WEIGHT = 0.1
    # The mask losses are computed at the labels' size divided by this; 2 or 4 save time and memory.
    cfg.MODEL.SEGVIT_HEAD.LOSS_STRIDE = 1


def _add_own_heads_config(cfg: CN) -> None:
    # "FCNHead" (FCN, CVPR 2015; with several feature maps the head of HRNetV2).
    cfg.MODEL.FCN_HEAD = CN()
    # Channels of the convolutions; None: those of the input.
    cfg.MODEL.FCN_HEAD.CHANNELS = 512
    cfg.MODEL.FCN_HEAD.NUM_CONVS = 2
    cfg.MODEL.FCN_HEAD.KERNEL_SIZE = 3
    # One more convolution, over the concatenation of the input and the output of the others.
    cfg.MODEL.FCN_HEAD.CONCAT_INPUT = True

    # "UPerHead" (UPerNet, ECCV 2018).
    cfg.MODEL.UPER_HEAD = CN()
    cfg.MODEL.UPER_HEAD.CHANNELS = 512
    cfg.MODEL.UPER_HEAD.POOL_SCALES = [1, 2, 3, 6]

    # "PSPHead" (PSPNet, CVPR 2017).
    cfg.MODEL.PSP_HEAD = CN()
    cfg.MODEL.PSP_HEAD.CHANNELS = 512
    cfg.MODEL.PSP_HEAD.POOL_SCALES = [1, 2, 3, 6]

    # "DepthwiseSeparableASPPHead" (DeepLabV3+, ECCV 2018).
    cfg.MODEL.ASPP_HEAD = CN()
    cfg.MODEL.ASPP_HEAD.CHANNELS = 512
    cfg.MODEL.ASPP_HEAD.LOW_LEVEL_CHANNELS = 48
    cfg.MODEL.ASPP_HEAD.DILATIONS = [1, 12, 24, 36]

    # "OCRHead" (OCRNet, ECCV 2020): attention to the regions of a coarse prediction.
    cfg.MODEL.OCR_HEAD = CN()
    cfg.MODEL.OCR_HEAD.CHANNELS = 512
    # Channels of keys and values of the attention.
    cfg.MODEL.OCR_HEAD.KEY_CHANNELS = 256
    # Channels of the coarse prediction's convolution; None: those of the input.
    cfg.MODEL.OCR_HEAD.COARSE_CHANNELS = None
    # Weight of the coarse prediction's loss.
    cfg.MODEL.OCR_HEAD.LOSS_WEIGHT_COARSE = 0.4


def _add_keys_of_earlier_versions(cfg: CN) -> None:
    # For old configs: where they are set, they take precedence over MODEL.SEM_SEG_HEAD.IN_FEATURES.
    for head in ("FCN_HEAD", "UPER_HEAD", "OCR_HEAD", "ECE_HEAD", "SEGVIT_HEAD"):
        cfg.MODEL[head].IN_FEATURES = []
    cfg.MODEL.PSP_HEAD.IN_FEATURE = ""
    cfg.MODEL.ASPP_HEAD.IN_FEATURE = ""
    cfg.MODEL.ASPP_HEAD.LOW_LEVEL_FEATURE = ""


def _add_classifier_config(cfg: CN) -> None:
    # The classifier that replaces the head's last 1x1 convolution. Meta-architectures such as
    # "ContextAwareSegmentor" determine it; with "PixelClassifierSegmentor", NAME does.
    # "WholeHeadSegmentor" is for heads that classify by themselves.
    cfg.MODEL.CLASSIFIER = CN()
    # A name of CLASSIFIER_REGISTRY: one of this project's, or your own. With other
    # meta-architectures than "PixelClassifierSegmentor" it is "" or names the same classifier.
    cfg.MODEL.CLASSIFIER.NAME = ""
    # Arguments of the classifier, as [name, value, name, value, ...].
    cfg.MODEL.CLASSIFIER.OPTIONS = []
    # Probability of dropping a channel of the pixel features in training.
    cfg.MODEL.CLASSIFIER.DROPOUT = 0.1
    # Whether logits are interpolated to the labels' size with align_corners.
    cfg.MODEL.CLASSIFIER.ALIGN_CORNERS = False

    # The keys of a classifier are the arguments of its constructor.
    _add_context_aware_config(cfg.MODEL.CLASSIFIER)
    _add_semantic_spatial_config(cfg.MODEL.CLASSIFIER)
    _add_prototype_config(cfg.MODEL.CLASSIFIER)
    _add_learned_prototype_config(cfg.MODEL.CLASSIFIER)
    _add_gaussian_mixture_config(cfg.MODEL.CLASSIFIER)
    _add_feature_bank_config(cfg.MODEL.CLASSIFIER)
    _add_explicit_class_config(cfg.MODEL.CLASSIFIER)


def _add_context_aware_config(classifier: CN) -> None:
    # Context-aware classifier (AAAI 2023).
    context_aware = classifier.CONTEXT_AWARE = CN()
    # "cosine", multiplied with SCALE (tau), or "dot".
    context_aware.SIMILARITY = "cosine"
    context_aware.SCALE = 15.0
    # Weights of the four losses; 0 turns one off.
    context_aware.LOSS_WEIGHT_REFINED = 1.0
    context_aware.LOSS_WEIGHT_VANILLA = 1.0
    context_aware.LOSS_WEIGHT_ORACLE = 1.0
    context_aware.LOSS_WEIGHT_KL = 1.0
    # The target of the distillation: "half_smoothed", the mean of the oracle's probabilities and
    # the ground truth (the authors' code), or "kl", the oracle's probabilities alone (the paper).
    context_aware.DISTILLATION_TARGET = "half_smoothed"
    # How its pixels are averaged: "plain", "entropy", "class" or "class_entropy".
    context_aware.DISTILLATION_WEIGHTING = "class_entropy"
    # The prediction whose entropy weights them: "oracle", "estimated" or "vanilla".
    context_aware.ENTROPY_SOURCE = "oracle"
    # The oracle gets the true mean features of the whole "batch" of a worker, or of each "image".
    context_aware.ORACLE_CONTEXT = "batch"
    # Whether the vanilla and the oracle logits are interpolated with align_corners for their losses
    # (as in the authors' heads). ALIGN_CORNERS above is for the refined ones.
    context_aware.AUXILIARY_ALIGN_CORNERS = True


def _add_semantic_spatial_config(classifier: CN) -> None:
    # Semantic and spatial adaptive classifier, SSA-Seg (NeurIPS 2024).
    semantic_spatial = classifier.SEMANTIC_SPATIAL = CN()
    # "both", "semantic" or "spatial" prototypes.
    semantic_spatial.PROTOTYPES = "both"
    # "cosine", multiplied with SCALE (tau), or "dot".
    semantic_spatial.SIMILARITY = "cosine"
    semantic_spatial.SCALE = 15.0
    # The oracle gets the true means of the whole "batch" of a worker, or of each "image".
    semantic_spatial.SEMANTIC_ORACLE_CONTEXT = "batch"
    semantic_spatial.SPATIAL_ORACLE_CONTEXT = "image"
    # How the pixels of the response distillation are averaged: "plain", "entropy", "class",
    # "class_entropy", or "class_entropy_boundary", where the pixels at boundaries have half of the
    # weight of each class.
    semantic_spatial.RESPONSE_WEIGHTING = "class_entropy_boundary"
    # Boundaries are "canny" edges of the labels, or pixels whose "neighbours" have another label.
    semantic_spatial.BOUNDARY = "canny"
    # Width in pixels of the frame of the feature map without boundaries.
    semantic_spatial.BOUNDARY_FRAME = 6
    # Pixels by which boundaries are widened.
    semantic_spatial.BOUNDARY_DILATION = 1
    # loss_sem_seg is the sum over the labelled pixels divided by the number of the "labelled"
    # pixels or, as in the authors' code, of "all" pixels.
    semantic_spatial.SEM_SEG_DIVISOR = "labelled"
    # Whether logits are interpolated with align_corners for the losses. ALIGN_CORNERS above is for
    # the prediction.
    semantic_spatial.LOSS_ALIGN_CORNERS = True
    # Weights of the eight losses; 0 turns one off.
    semantic_spatial.LOSS_WEIGHT_SEM_SEG = 1.0
    semantic_spatial.LOSS_WEIGHT_VANILLA = 1.0
    semantic_spatial.LOSS_WEIGHT_ORACLE = 1.0
    semantic_spatial.LOSS_WEIGHT_DICE = 1.0
    semantic_spatial.LOSS_WEIGHT_DICE_ORACLE = 1.0
    semantic_spatial.LOSS_WEIGHT_RESPONSE = 1.0
    semantic_spatial.LOSS_WEIGHT_SEMANTIC = 10.0
    semantic_spatial.LOSS_WEIGHT_SPATIAL = 0.4


def _add_prototype_config(classifier: CN) -> None:
    # Nonparametric prototypes (CVPR 2022).
    prototype = classifier.PROTOTYPE = CN()
    # Prototypes per class.
    prototype.NUM_PROTOTYPES = 10
    # Weight of the old value of a prototype in an update.
    prototype.MOMENTUM = 0.999
    # The clustering: rounds of Sinkhorn-Knopp, and strength of its regularisation (kappa).
    prototype.SINKHORN_ITERATIONS = 3
    prototype.SINKHORN_EPSILON = 0.05
    # The prototype that a pixel updates: "gumbel", sampled from the transport plan (the authors'
    # code), or "argmax".
    prototype.ASSIGNMENT = "gumbel"
    # Temperature of the contrast between prototypes: 1.0 in the authors' code, 0.1 in the paper.
    prototype.TEMPERATURE = 1.0
    # Two 1x1 convolutions before the embedding.
    prototype.PROJECTION = False
    # "cosine", "euclidean" or "huber".
    prototype.DISTANCE = "cosine"
    # "average": the prototypes of all workers are averaged (the authors' code). "joint": the pixels
    # of all workers are clustered together.
    prototype.SYNCHRONIZATION = "average"
    # Weights of the three losses; 0 turns one off.
    prototype.LOSS_WEIGHT_SEM_SEG = 1.0
    prototype.LOSS_WEIGHT_PPC = 0.01
    prototype.LOSS_WEIGHT_PPD = 0.001


def _add_learned_prototype_config(classifier: CN) -> None:
    # Several learned vectors per class, the parametric baseline of the prototypes (CVPR 2022).
    learned_prototype = classifier.LEARNED_PROTOTYPE = CN()
    # Vectors per class; 1: a 1x1 convolution without bias.
    learned_prototype.NUM_PROTOTYPES = 10
    # The score of a class is the "max" or the "logsumexp" of the products with its vectors.
    learned_prototype.SCORE = "max"


def _add_gaussian_mixture_config(classifier: CN) -> None:
    # Gaussian mixtures, GMMSeg (NeurIPS 2022).
    mixture = classifier.GAUSSIAN_MIXTURE = CN()
    # Gaussians per class.
    mixture.NUM_COMPONENTS = 5
    # Channels of the embedding, the output of a 1x1 convolution; None: the features themselves.
    mixture.EMBEDDING_CHANNELS = 64
    # Embeddings per Gaussian in the memory (the authors: 32000), 4 bytes per channel each; the
    # training log states the size in MiB. 0: Gaussians are fitted to one batch.
    mixture.MEMORY_SIZE = 1000
    # Largest number of pixels per Gaussian and batch.
    mixture.MAX_SAMPLES = 20
    # Weights of the old mean, and of the old standard deviation, in an update.
    mixture.MEAN_MOMENTUM = 0.999
    mixture.SCALE_MOMENTUM = 0.0
    # Number of steps from one update to the next.
    mixture.REFIT_INTERVAL = 5
    # The score of a class: "max", the largest density of its Gaussians (the authors' code), or
    # "logsumexp", the density of the mixture (the paper).
    mixture.CLASS_SCORE = "max"
    # A LayerNorm over the scores of the classes.
    mixture.SCORE_NORM = True
    # The Gaussians that a pixel belongs to: "sinkhorn", one by optimal transport (the authors'
    # code); "sinkhorn_soft", all, weighted by the transport plan (the paper); or "posterior", all,
    # weighted by their posterior probabilities.
    mixture.E_STEP = "sinkhorn"
    mixture.SINKHORN_ITERATIONS = 3
    mixture.SINKHORN_EPSILON = 0.05
    # "diagonal", "spherical" (one variance per Gaussian) or "fixed" (1).
    mixture.COVARIANCE = "diagonal"
    # Fit Gaussians to correctly classified pixels only.
    mixture.ONLY_CORRECT = True
    # "em" (expectation maximisation), or "gradient": means and scales are trained by the losses.
    mixture.LEARNING = "em"
    # loss_sem_seg is the sum over the labelled pixels divided by the number of the "labelled"
    # pixels or, as in the authors' code, of "all" pixels.
    mixture.SEM_SEG_DIVISOR = "labelled"
    # Weights of the two losses; 0 turns one off.
    mixture.LOSS_WEIGHT_SEM_SEG = 1.0
    mixture.LOSS_WEIGHT_CONTRAST = 0.01


def _add_feature_bank_config(classifier: CN) -> None:
    # A bank of labelled pixel features, Hummingbird (NeurIPS 2023). It is not trained:
    # d2-ctxseg build-bank fills it and writes a config with the resulting SIZE.
    bank = classifier.FEATURE_BANK = CN()
    # The largest number of features in the bank, divided evenly among the classes.
    bank.SIZE = 20000
    # Nearest features that vote, and the temperature of their softmax.
    bank.NUM_NEIGHBORS = 30
    bank.TEMPERATURE = 0.02
    # 0: all features have the same weight; 1: a feature is weighted by the number of pixels that it
    # represents, so that frequent classes are favoured.
    bank.PRIOR = 0.5


def _add_explicit_class_config(classifier: CN) -> None:
    # Explicit class embeddings (ICCV 2023) on the features of any head.
    explicit_class = classifier.EXPLICIT_CLASS = CN()
    # Channels of embeddings, attention and refined features; None: those of the features, at most
    # 256.
    explicit_class.CHANNELS = None
    explicit_class.NUM_HEADS = 4
    # Hidden channels of the attention's MLP as a multiple of CHANNELS.
    explicit_class.MLP_RATIO = 1.0
    # Masks are pooled to grids of up to sqrt(number of classes) times this.
    explicit_class.POOL_RATIO = 1.0
    # The binary mask loss: "focal" or "bce".
    explicit_class.MASK_LOSS = "focal"
    # Weights of the mask and the dice loss; 0 turns one off.
    explicit_class.LOSS_WEIGHT_MASK = 5.0
    explicit_class.LOSS_WEIGHT_DICE = 2.0


def _add_pixel_loss_config(cfg: CN) -> None:
    # The cross-entropy of class scores and labels, of every classifier, of predictions inside heads
    # and of the auxiliary head (docs/TRAINING.md). MODEL.SEM_SEG_HEAD.IGNORE_VALUE and
    # MODEL.CLASSIFIER.ALIGN_CORNERS apply to it.
    pixel_loss = cfg.MODEL.PIXEL_LOSS = CN()
    # Weights of the classes: None (or []) for equal weights, a list of one number per class, or
    # "balanced", median-frequency balancing from the labels of DATASETS.TRAIN. The resulting
    # numbers are written to the run's config.yaml.
    pixel_loss.CLASS_WEIGHTS = None
    # Hard-pixel mining: the share of the pixels that counts, those with the lowest probability of
    # the true class. 1.0: all pixels; DeepLab: 0.2. None: as the head trains in Detectron2, which
    # is 1.0 except for DeepLab's heads with MODEL.SEM_SEG_HEAD.LOSS_TYPE "hard_pixel_mining".
    pixel_loss.HARD_PIXEL_SHARE = None
    # Pixels with a lower probability of the true class count as well (OHEM of mmsegmentation: 0.7).
    # Needs a share below 1.0.
    pixel_loss.HARD_PIXEL_THRESHOLD = 0.0
    # Label smoothing: the share of the target that is spread evenly over the classes.
    pixel_loss.LABEL_SMOOTHING = 0.0


def _add_solver_config(cfg: CN) -> None:
    # "SGD" or "ADAMW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rates of the backbone and of everything else, as multiples of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.HEAD_MULTIPLIER = 1.0
    # Layer-wise decay of the learning rate (BEiT): the rate of each block of the encoder is that of
    # the next deeper block multiplied with this.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Weight decay of position tables and tokens; None: WEIGHT_DECAY.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # True: SOLVER.WEIGHT_DECAY_NORM applies to the backbone alone, and the head's normalisations
    # have WEIGHT_DECAY. This is the case in mmsegmentation's recipes with AdamW, which select
    # parameters by "norm" in their names: the BatchNorm of a head's convolution is called "bn".
    cfg.SOLVER.DECAY_HEAD_NORMS = False
    # Betas of AdamW.
    cfg.SOLVER.BETAS = (0.9, 0.999)
    # The last learning rate of WarmupPolyLR.
    cfg.SOLVER.MIN_LR = 0.0
    # Gradient accumulation: a batch of IMS_PER_BATCH images is split into this many micro-batches.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Precision of SOLVER.AMP: "float16" or "bfloat16".
    cfg.SOLVER.AMP.PRECISION = "float16"
    # An exponential moving average (EMA) of the weights, which is evaluated and saved as well.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999


def _add_test_config(cfg: CN) -> None:
    # Keep the checkpoint with the best value of this metric of the first test dataset as
    # model_best.pth. "" turns it off.
    cfg.TEST.BEST_METRIC = "sem_seg/mIoU"
    # Number of validation images that are drawn, with ground truth and prediction, at each
    # evaluation in training.
    cfg.TEST.NUM_OVERLAYS = 4
    # Pad test images and windows to multiples of the backbone's size_divisibility, as in
    # Detectron2. False: predict them one by one, in their own size (mmsegmentation).
    cfg.TEST.PAD = True
    # Predict windows of SIZE (height, width), STRIDE apart, and average them where they overlap.
    cfg.TEST.SLIDING_WINDOW = CN()
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    cfg.TEST.SLIDING_WINDOW.SIZE = [512, 512]
    cfg.TEST.SLIDING_WINDOW.STRIDE = [341, 341]
    # Number of windows per batch.
    cfg.TEST.SLIDING_WINDOW.BATCH_SIZE = 4
    # Scales of multi-scale testing (TEST.AUG.ENABLED), relative to the image of single-scale
    # testing. Empty: the shortest edge is resized to TEST.AUG.MIN_SIZES, the longest to at most
    # TEST.AUG.MAX_SIZE.
    cfg.TEST.AUG.RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    # True: resize each view from the image as it was read (mmsegmentation). False: from the image
    # that was resized for single-scale testing (Detectron2).
    cfg.TEST.AUG.FROM_ORIGINAL = False
    # What is averaged over the scales: "probabilities" or "logits".
    cfg.TEST.AUG.AVERAGE = "probabilities"
    # Evaluate the calibration of the confidences: expected calibration error, reliability diagram,
    # risk-coverage curve (docs/EVALUATION.md).
    cfg.TEST.CALIBRATION = False
    # The temperature that class scores are divided by before they become confidences; it does not
    # change the predicted classes. None: the one that d2-ctxseg calibrate fitted to MODEL.WEIGHTS
    # and keeps beside it, else 1.
    cfg.TEST.TEMPERATURE = None
    # The same, of the average over the views of multi-scale testing.
    cfg.TEST.AUG.TEMPERATURE = None
    # The IoU of a class that is absent from the ground truth: "left_out" of the mean, as in
    # Detectron2, or "zero_if_predicted" (mmsegmentation).
    cfg.TEST.ABSENT_CLASSES = "left_out"
    # Evaluate how well these scores tell pixels of no class from the others (AUROC, AP, FPR95), on
    # test datasets that have such pixels (docs/EVALUATION.md): "max_softmax", "max_logit",
    # "entropy", "energy", and "classifier", the classifier's own. Empty: no such evaluation.
    cfg.TEST.ANOMALY = CN()
    cfg.TEST.ANOMALY.SCORES = []
    # Compute the boundary IoU. It takes several times as long as all other metrics together.
    cfg.TEST.BOUNDARY_IOU = False
    # Evaluate Cityscapes with cityscapesscripts as well, if it is installed. It takes about half a
    # second per image.
    cfg.TEST.CITYSCAPES_SCRIPTS = True
    # Write predictions as label images with the dataset's own ids, and as COCO RLE.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Number of the worst, and of the best, images whose predictions are saved for the report.
    cfg.TEST.NUM_EXAMPLES = 6
    # The demos and tools refuse larger images, which take minutes and much memory.
    cfg.TEST.MAX_MEGAPIXELS = 50.0
    # Write report.html to OUTPUT_DIR after the evaluation.
    cfg.TEST.REPORT = False
