"""Decoders of segmentation-models-pytorch as a Detectron2 semantic segmentation head."""

import inspect
from collections.abc import Mapping
from importlib import import_module

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from ...utils.errors import UserError, counted, suggest
from ..padding import pad_to_multiple
from .base import SemSegHead, config_arguments

# The decoder's class, and values of the arguments without a default.
_DECODERS = {
    "FPN": ("fpn.decoder.FPNDecoder", {}),
    "UPerNet": ("upernet.decoder.UPerNetDecoder", {}),
    "Segformer": ("segformer.decoder.SegformerDecoder", {}),
    "PSPNet": ("pspnet.decoder.PSPDecoder", {"out_channels": 512}),
    "PAN": ("pan.decoder.PANDecoder", {"decoder_channels": 32}),
    "DeepLabV3Plus": (
        "deeplabv3.decoder.DeepLabV3PlusDecoder",
        {
            "out_channels": 256,
            "atrous_rates": (12, 24, 36),
            "aspp_separable": True,
            "aspp_dropout": 0.5,
        },
    ),
    "Unet": ("unet.decoder.UnetDecoder", {"decoder_channels": (256, 128, 64, 32, 16)}),
    "UnetPlusPlus": (
        "unetplusplus.decoder.UnetPlusPlusDecoder",
        {"decoder_channels": (256, 128, 64, 32, 16)},
    ),
    "Linknet": ("linknet.decoder.LinknetDecoder", {"prefinal_channels": 32}),
}


@SEM_SEG_HEADS_REGISTRY.register()
class SMPDecoderHead(SemSegHead):
    """A decoder of segmentation-models-pytorch and a 1x1 predictor.

    The decoders expect the feature maps ``res0`` (the image) to ``res5`` of EncoderBackbone.

    Args:
        input_shape: shapes of the backbone's feature maps.
        decoder: ``"UPerNet"``, ``"FPN"``, ``"Segformer"``, ``"PSPNet"``, ``"PAN"``,
            ``"DeepLabV3Plus"``, ``"Unet"``, ``"UnetPlusPlus"`` or ``"Linknet"``.
        decoder_options: keyword arguments of that decoder.
        num_classes: number of classes K.
        loss_weight: factor on the loss.
        ignore_value: label of ignored pixels.
        align_corners: how logits are interpolated.

    Raises:
        UserError: unknown decoder or option, or feature maps that are not there.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        decoder: str,
        decoder_options: Mapping[str, object] | None = None,
        num_classes: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        align_corners: bool = False,
    ):
        shapes = [input_shape[name] for name in _encoder_feature_names(input_shape)]
        built = build_decoder(decoder, shapes, dict(decoder_options or {}))
        channels, stride = _probe(decoder, built, shapes)
        super().__init__(
            channels,
            num_classes,
            common_stride=stride,
            loss_weight=loss_weight,
            ignore_value=ignore_value,
            align_corners=align_corners,
        )
        self.decoder = built
        self.in_features = _encoder_feature_names(input_shape)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        decoder = cfg.MODEL.SEM_SEG_HEAD.DECODER
        options = decoder.OPTIONS
        if len(options) % 2:
            raise UserError(
                "MODEL.SEM_SEG_HEAD.DECODER.OPTIONS must be [name, value, name, value, ...], "
                f"but has {counted(len(options), 'entry', 'entries')}: {options}."
            )
        return config_arguments(cfg, input_shape) | {
            "decoder": decoder.NAME,
            "decoder_options": dict(zip(options[::2], options[1::2])),
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name to (B, C, h, w) at ``common_stride``."""
        image, *maps = (features[name] for name in self.in_features)
        # Decoders use only the size of the image. Segformer's divides it by 4 and rounds down,
        # where the sizes of the feature maps are rounded up.
        return self.decoder([pad_to_multiple(image, 4), *maps])


def build_decoder(name: str, shapes: list[ShapeSpec], options: dict[str, object]) -> nn.Module:
    """A decoder of segmentation-models-pytorch, with the library's initialisation.

    Args:
        name: see SMPDecoderHead.
        shapes: shapes of the encoder's feature maps, from the image to the deepest.
        options: keyword arguments of the decoder.
    """
    if name not in _DECODERS:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.DECODER.NAME: no decoder '{name}'; there are "
            f"{', '.join(_DECODERS)}.{suggest(name, _DECODERS)}"
        )
    path, defaults = _DECODERS[name]
    module, _, class_name = path.rpartition(".")
    decoder_class = getattr(
        import_module(f"segmentation_models_pytorch.decoders.{module}"), class_name
    )
    parameters = list(inspect.signature(decoder_class).parameters)
    unknown = [option for option in options if option not in parameters]
    if unknown:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.DECODER.OPTIONS: decoder '{name}' has no option '{unknown[0]}'; "
            f"it has {', '.join(parameters)}.{suggest(unknown[0], parameters)}"
        )
    depth = len(shapes) - 1
    from_encoder = {
        "encoder_channels": [shape.channels for shape in shapes],
        "encoder_depth": depth,
        "n_blocks": depth,
        "output_stride": shapes[-1].stride,
    }
    arguments = {key: value for key, value in from_encoder.items() if key in parameters}
    try:
        decoder = decoder_class(**{**arguments, **defaults, **options})
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.DECODER.OPTIONS: decoder '{name}' cannot be built with "
            f"{options or 'its defaults'} on this encoder: {error}"
        ) from error
    initialize_decoder(decoder)
    return decoder


def _encoder_feature_names(input_shape: Mapping[str, ShapeSpec]) -> list[str]:
    names = [f"res{i}" for i in range(6)]
    missing = [name for name in names if name not in input_shape]
    if missing:
        raise UserError(
            f"SMPDecoderHead needs the feature maps {', '.join(names)}, but the backbone has no "
            f"{', '.join(missing)}. Set MODEL.BACKBONE.NAME to 'EncoderBackbone'."
        )
    return names


@torch.no_grad()
def _probe(
    name: str, decoder: nn.Module, shapes: list[ShapeSpec], size: int = 256
) -> tuple[int, int]:
    """Channels and stride of the decoder's output, by running it: decoders do not state them."""
    was_training = decoder.training
    decoder.eval()
    device = next(decoder.parameters()).device
    features = [
        torch.zeros(1, shape.channels, size // shape.stride, size // shape.stride, device=device)
        for shape in shapes
    ]
    try:
        output = decoder(features)
    except RuntimeError as error:
        raise UserError(
            f"Decoder '{name}' does not work with feature maps of the strides "
            f"{[shape.stride for shape in shapes]} ({error}). Try another "
            "MODEL.ENCODER.OUTPUT_STRIDE (32, 16 or 8)."
        ) from error
    decoder.train(was_training)
    return output.shape[1], size // output.shape[2]
