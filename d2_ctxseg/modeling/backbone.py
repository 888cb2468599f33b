"""Encoders of segmentation-models-pytorch and timm as a Detectron2 backbone."""

import logging
import os

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ..checkpoint import read_state_dict
from ..errors import MissingFileError, UserError, suggest

ENCODER_DEPTH = 5


@BACKBONE_REGISTRY.register()
class EncoderBackbone(Backbone):
    """An encoder of segmentation-models-pytorch ("resnet18") or timm ("tu-convnext_tiny").

    Its feature maps are called as Detectron2 calls those of its ResNet: ``res2`` to ``res5`` have
    strides 4 to 32 (fewer with dilation). ``res1`` has stride 2; ``res0`` is the image itself,
    which some decoders take the size from.

    Args:
        name: the encoder's name; ``tu-`` marks one of timm.
        weights: ``"imagenet"`` or another name that the encoder offers (fetched from the network),
            ``""`` for random weights, or the path of a local .pth or .safetensors file.
        output_stride: stride of the deepest feature map: 32, 16 or 8.
        in_channels: channels of the image.

    Raises:
        UserError: no such encoder or weights, a stride the encoder does not support, a local file
            that does not fit, or weights that cannot be fetched.
    """

    @configurable
    def __init__(
        self, *, name: str, weights: str = "", output_stride: int = 32, in_channels: int = 3
    ):
        super().__init__()
        _check_name(name)
        local_file = weights if is_file_name(weights) else ""
        self.encoder = _build_encoder(
            name, None if local_file or not weights else weights, output_stride, in_channels
        )
        if local_file:
            load_local_weights(self.encoder, local_file)
        self._output_stride = output_stride
        if output_stride != 32:
            self._check_strides(name)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        return {
            "name": cfg.MODEL.ENCODER.NAME,
            "weights": cfg.MODEL.ENCODER.WEIGHTS,
            "output_stride": cfg.MODEL.ENCODER.OUTPUT_STRIDE,
            "in_channels": input_shape.channels,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W), H and W multiples of ``size_divisibility``, to feature maps.

        Returns:
            ``{"res0": image, "res1": ..., "res5": ...}``, each (B, channels, H/stride, W/stride).
        """
        return {f"res{i}": feature for i, feature in enumerate(self.encoder(image))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            f"res{i}": ShapeSpec(channels=channels, stride=min(2**i, self._output_stride))
            for i, channels in enumerate(self.encoder.out_channels)
        }

    @torch.no_grad()
    def _check_strides(self, name: str) -> None:
        """Some encoders take an output stride without a word and do not keep it."""
        training = self.training
        self.eval()
        parameter = next(self.encoder.parameters())
        image = parameter.new_zeros(1, self.encoder.out_channels[0], 64, 64)
        features = self(image)
        self.train(training)
        for key, shape in self.output_shape().items():
            if shape.channels and features[key].shape[-1] != 64 // shape.stride:
                raise _unsupported_stride(
                    name,
                    self._output_stride,
                    f"{key} has stride {64 // features[key].shape[-1]} instead of {shape.stride}",
                )

    @property
    def size_divisibility(self) -> int:
        """The image's sides must be multiples of this."""
        return self._output_stride


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


def _build_encoder(name: str, weights: str | None, output_stride: int, in_channels: int):
    # timm's Swin takes no image but of its pretraining size, unless it is told to.
    options = {"strict_img_size": False} if name.startswith("tu-swin") else {}
    try:
        return smp.encoders.get_encoder(
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
            f"The weights '{weights}' of encoder '{name}' could not be fetched "
            f"({type(error).__name__}: {error}). Without a network, set MODEL.ENCODER.WEIGHTS to "
            "a local .pth or .safetensors file, or to '' for random weights."
        ) from error
    except (ValueError, TypeError, NotImplementedError) as error:
        if output_stride == 32:
            raise
        raise _unsupported_stride(name, output_stride, error) from error


def _unsupported_stride(name: str, output_stride: int, reason) -> UserError:
    return UserError(
        f"MODEL.ENCODER.OUTPUT_STRIDE {output_stride}: encoder '{name}' does not support it "
        f"({reason}). Use 32."
    )


def load_local_weights(encoder: torch.nn.Module, path: str) -> None:
    """Fill the encoder from a file that holds the encoder alone, with or without a classifier.

    Raises:
        MissingFileError: no such file.
        UserError: it is no checkpoint, or lacks weights of the encoder; the message names them.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f"MODEL.ENCODER.WEIGHTS: no file '{os.path.abspath(path)}'.")
    state = read_state_dict(path)
    # timm's encoders are one level down, as attribute `model`.
    target = encoder.model if hasattr(encoder, "model") else encoder
    expected = target.state_dict()
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
    logging.getLogger(__name__).info(
        "Encoder weights from %s. Not used: %s", path, ", ".join(unexpected) or "none"
    )
