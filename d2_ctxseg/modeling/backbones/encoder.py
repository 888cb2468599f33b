"""Encoders of segmentation-models-pytorch and timm as a Detectron2 backbone."""

import logging
import os

import segmentation_models_pytorch as smp
import timm
import torch
from timm.layers import DropPath, LayerNorm2d
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.func import functional_call

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from ...checkpoint import read_state_dict
from ...utils.errors import MissingFileError, UserError, suggest
from .activation_checkpointing import checkpoint_activations
from .freezing import FreezableBackbone, check_freeze_at, parameters_of_stages
from .normalization import compare_normalization
from .timm_encoders import adapt_to_segmentation, timm_options

ENCODER_DEPTH = 5
STAGES = ("res2", "res3", "res4", "res5")

logger = logging.getLogger(__name__)
# Cached by an encoder's arguments: tracing takes seconds, and programs build some encoders often.
_unused_parameters: dict[tuple, list[str]] = {}


@BACKBONE_REGISTRY.register()
class EncoderBackbone(FreezableBackbone):
    """An encoder of segmentation-models-pytorch ("resnet18") or timm ("tu-convnext_tiny").

    The feature maps have the names of Detectron2's ResNet: ``res2`` to ``res5`` have strides 4 to
    32 (smaller with dilation). ``res1`` has stride 2; ``res0`` is the image itself, whose size some
    decoders need.

    The feature maps of HRNet are its four branches, without the classifier's convolutions. Unused
    parameters, which no feature map depends on, are frozen: distributed training fails on them.

    Args:
        name: the encoder's name; ``tu-`` marks one of timm.
        weights: ``"imagenet"`` or another name that the encoder offers (downloaded),
            ``""`` for random weights, or the path of a local .pth or .safetensors file.
        output_stride: stride of the deepest feature map: 32, 16 or 8.
        in_channels: channels of the image.
        drop_path_rate: probability of skipping the last block's branches in training; it rises
            linearly from 0 at the first block (stochastic depth, ECCV 2016). For MiT and encoders
            of timm that support it; "efficientnet-b0" and similar ones always have 0.2.
        output_norm: whether ``res2`` to ``res5`` each go through a LayerNorm over the channels.
        activation_checkpointing: whether activations within blocks are recomputed in the backward
            pass, to save memory.
        freeze_at: number of frozen stages, as in Detectron2's ResNet: 1 freezes the stem (all
            layers up to ``res1``), 2 also the stage of ``res2``, and so on; 5 the whole encoder.
            The norms of ``output_norm`` are not frozen.

    Raises:
        UserError: no such encoder or weights, an argument the encoder does not support, a local
            file that does not fit, or weights that cannot be downloaded.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        weights: str = "",
        output_stride: int = 32,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        output_norm: bool = False,
        activation_checkpointing: bool = False,
        freeze_at: int = 0,
    ):
        super().__init__()
        check_freeze_at(freeze_at, ENCODER_DEPTH, "the whole encoder")
        _check_name(name)
        local_file = weights if is_file_name(weights) else ""
        self.encoder = _build_encoder(
            name,
            None if local_file or not weights else weights,
            output_stride,
            in_channels,
            drop_path_rate,
        )
        if local_file:
            load_local_weights(self.encoder, local_file)
        self._output_stride = output_stride
        self.output_norms = nn.ModuleDict()
        if output_norm:
            shapes = self.output_shape()
            # The epsilon of the published segmentors with these norms.
            norms = {stage: LayerNorm2d(shapes[stage].channels, eps=1e-5) for stage in STAGES}
            self.output_norms.update(norms)
        kind = (name, output_stride, in_channels, drop_path_rate, output_norm)
        if kind not in _unused_parameters:
            _unused_parameters[kind] = self._trace(name)
        self._freeze_unused(_unused_parameters[kind], name)
        if freeze_at:
            names = parameters_of_stages(self.encoder, freeze_at, name, in_channels)
            self.freeze(names, freeze_at)
        if activation_checkpointing:
            checkpoint_activations(self.encoder, name)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        compare_normalization(cfg)
        encoder = cfg.MODEL.ENCODER
        return {
            "name": encoder.NAME,
            "weights": encoder.WEIGHTS,
            "output_stride": encoder.OUTPUT_STRIDE,
            "in_channels": input_shape.channels,
            "drop_path_rate": encoder.DROP_PATH_RATE,
            "output_norm": encoder.OUTPUT_NORM,
            "activation_checkpointing": encoder.ACTIVATION_CHECKPOINTING,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W), H and W multiples of ``size_divisibility``, to feature maps.

        Returns:
            ``{"res0": image, "res1": ..., "res5": ...}``, each (B, channels, H/stride, W/stride).
        """
        features = {f"res{i}": feature for i, feature in enumerate(self.encoder(image))}
        return features | {name: norm(features[name]) for name, norm in self.output_norms.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            f"res{i}": ShapeSpec(channels=channels, stride=min(2**i, self._output_stride))
            for i, channels in enumerate(self.encoder.out_channels)
        }

    @property
    def size_divisibility(self) -> int:
        """The image's sides must be multiples of this."""
        return self._output_stride

    def _trace(self, name: str, size: int = 256) -> list[str]:
        """Check the feature maps' strides; return the names of unused parameters.

        On the meta device, where nothing is computed.
        """
        state = {
            key: torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
            for key, tensor in (*self.named_parameters(), *self.named_buffers())
        }
        image = torch.empty(1, self.encoder.out_channels[0], size, size, device="meta")
        training = self.training
        self.eval()
        try:
            with torch.enable_grad():
                features = functional_call(self, state, (image,))
                sum(feature.sum() for key, feature in features.items() if key != "res0").backward()
        except Exception as error:  # of many types, where an encoder needs another image size
            if self._output_stride != 32:
                raise _unsupported_stride(name, self._output_stride, error) from error
            logger.debug("Encoder '%s' could not be traced: %s", name, error)
            return []
        finally:
            self.train(training)
        if self._output_stride != 32:
            self._check_strides(name, features, size)
        return [key for key, tensor in state.items() if tensor.grad is None]

    def _check_strides(self, name: str, features: dict[str, Tensor], size: int) -> None:
        # Some encoders accept an output stride and ignore it.
        for key, shape in self.output_shape().items():
            if shape.channels and features[key].shape[-1] != size // shape.stride:
                actual = size // features[key].shape[-1]
                reason = f"{key} has stride {actual} instead of {shape.stride}"
                raise _unsupported_stride(name, self._output_stride, reason)

    def _freeze_unused(self, unused: list[str], name: str) -> None:
        parameters = {key: p for key, p in self.named_parameters() if key in unused}
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        if parameters:
            names = ", ".join(parameters)
            logger.info("Encoder '%s': no feature map depends on %s", name, names)


def _check_name(name: str) -> None:
    if name.startswith("tu-"):
        # A tag after the dot selects pretrained weights, not another architecture.
        if not timm.is_model(name[3:]):
            hint = suggest(name, (f"tu-{model}" for model in timm.list_models()))
            raise UserError(f"MODEL.ENCODER.NAME: timm {timm.__version__} has no '{name}'.{hint}")
    elif name not in smp.encoders.get_encoder_names():
        hint = suggest(name, smp.encoders.get_encoder_names())
        if timm.is_model(name):
            hint = f" timm has it: write 'tu-{name}'."
        raise UserError(
            f"MODEL.ENCODER.NAME: segmentation-models-pytorch {smp.__version__} has no encoder "
            f"'{name}'.{hint}"
        )


def is_file_name(weights: str) -> bool:
    """Whether MODEL.ENCODER.WEIGHTS is a path, not the name of pretrained weights."""
    return bool(weights) and (os.sep in weights or os.path.splitext(weights)[1] != "")


def _build_encoder(
    name: str,
    weights: str | None,
    output_stride: int,
    in_channels: int,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    options = timm_options(name)
    if drop_path_rate and name.startswith("tu-"):
        options["drop_path_rate"] = drop_path_rate
    try:
        encoder = _get_encoder(
            name,
            in_channels=in_channels,
            depth=ENCODER_DEPTH,
            weights=weights,
            output_stride=output_stride,
            **options,
        )
    except KeyError as error:
        raise UserError(f"MODEL.ENCODER.WEIGHTS: {error.args[0]}") from error
    except (OSError, RuntimeError) as error:
        if weights is None:
            raise
        # huggingface_hub and timm raise various subclasses where they cannot reach the network.
        raise UserError(
            f"The weights '{weights}' of encoder '{name}' could not be downloaded "
            f"({type(error).__name__}: {error}). Without a network, set MODEL.ENCODER.WEIGHTS to "
            "a local .pth or .safetensors file, or to '' for random weights."
        ) from error
    except (ValueError, TypeError, NotImplementedError) as error:
        if "drop_path_rate" in str(error):
            raise _unknown_drop_path(name, drop_path_rate) from error
        if "downsampling pattern" in str(error):
            raise UserError(
                f"MODEL.ENCODER.NAME: '{name}' has no feature maps of the strides 4, 8, 16 and 32. "
                "For a plain vision transformer, set MODEL.BACKBONE.NAME to "
                "'VisionTransformerBackbone'."
            ) from error
        if output_stride == 32:
            raise
        raise _unsupported_stride(name, output_stride, error) from error
    if name.startswith("tu-"):
        adapt_to_segmentation(encoder.model, name, output_stride)
    _set_drop_path(encoder, name, drop_path_rate)
    return encoder


def _get_encoder(name: str, **options) -> nn.Module:
    if name.startswith("tu-"):
        return smp.encoders.get_encoder(name, **options)
    # The library's own encoders cannot be built on the meta device.
    device = torch.get_default_device()
    with torch.device("cpu"):
        encoder = smp.encoders.get_encoder(name, **options)
    return encoder.to(device)


def _set_drop_path(encoder: nn.Module, name: str, rate: float) -> None:
    """Set the rate; some encoders have another default, and some accept a rate and ignore it."""
    if hasattr(encoder, "reset_drop_path"):
        with torch.device("cpu"):  # it reads numbers from a tensor
            encoder.reset_drop_path(rate)
        return
    paths = [module for module in encoder.modules() if isinstance(module, DropPath)]
    if rate and not (paths and name.startswith("tu-")):
        raise _unknown_drop_path(name, rate)
    for path in paths if not rate else []:
        path.drop_prob = 0.0


def _unknown_drop_path(name: str, rate: float) -> UserError:
    return UserError(
        f"MODEL.ENCODER.DROP_PATH_RATE {rate}: encoder '{name}' does not support stochastic depth. "
        "Set it to 0.0."
    )


def _unsupported_stride(name: str, output_stride: int, reason) -> UserError:
    return UserError(
        f"MODEL.ENCODER.OUTPUT_STRIDE {output_stride}: encoder '{name}' does not support it "
        f"({reason}). Use 32."
    )


def load_local_weights(encoder: torch.nn.Module, path: str) -> None:
    """Load the encoder's weights from a file of the encoder alone, with or without a classifier.

    The first convolution's weights for 3 channels are adapted to the encoder's number of channels.

    Raises:
        MissingFileError: the file does not exist.
        UserError: it is not a checkpoint, or lacks weights of the encoder; the message names them.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f"MODEL.ENCODER.WEIGHTS: no file '{os.path.abspath(path)}'.")
    state = read_state_dict(path)
    # timm's encoders are one level down, as attribute `model`.
    target = encoder.model if hasattr(encoder, "model") else encoder
    expected = target.state_dict()
    state = {key: _fit_channels(weight, expected.get(key)) for key, weight in state.items()}
    # Encoders of segmentation-models-pytorch return nothing from load_state_dict.
    missing = [
        key for key in expected if key not in state or state[key].shape != expected[key].shape
    ]
    unexpected = [key for key in state if key not in expected]
    if missing:
        raise UserError(
            f"MODEL.ENCODER.WEIGHTS: '{path}' does not fit the encoder. "
            f"Missing or of another shape: {', '.join(missing)}. "
            f"Not used: {', '.join(unexpected) or 'none'}."
        )
    target.load_state_dict({key: state[key] for key in expected})
    logger.info("Encoder weights from %s. Not used: %s", path, ", ".join(unexpected) or "none")


def _fit_channels(weight: Tensor, expected: Tensor | None) -> Tensor:
    """The weight of a convolution of 3 channels, adapted to the expected number of channels."""
    if expected is None or weight.ndim != 4 or weight.shape[1] != 3:
        return weight
    if weight.shape[0] != expected.shape[0] or weight.shape[2:] != expected.shape[2:]:
        return weight
    return adapt_input_conv(expected.shape[1], weight)
