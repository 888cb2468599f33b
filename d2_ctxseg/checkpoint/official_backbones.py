"""Rules that rename the weights of published backbones to those of timm's and smp's encoders.

The weights come from these repositories: mmsegmentation 0.x and 1.x
(https://github.com/open-mmlab/mmsegmentation), the Swin repositories
(https://github.com/microsoft/Swin-Transformer), SegFormer (https://github.com/NVlabs/SegFormer) and
HRNet (https://github.com/HRNet).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from ..utils.errors import UserError

# Pattern -> replacement. A pattern matches the beginning of a key, up to a dot or the end. The
# replacement is a template for re.Match.expand, or a function of the match.
Rules = Mapping[str, str | Callable[[re.Match], str]]
# Converts a tensor under its new name to this project's layout: name -> tensor.
Rearrange = Callable[[str, Tensor], dict[str, Tensor]]


def keep(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the tensor unchanged, as the default of :data:`Rearrange`."""
    return {name: tensor}


def rename(key: str, rules: Rules) -> str | None:
    """Rename the beginning of a key with the first matching rule; None if no rule matches."""
    for pattern, replacement in rules.items():
        match = re.match(rf"(?:{pattern})(?=\.|$)", key)
        if match:
            name = replacement(match) if callable(replacement) else match.expand(replacement)
            return name + key[match.end() :]
    return None


class BackboneNames(NamedTuple):
    """The names that one repository gives to the weights of a backbone.

    Attributes:
        code: the repository and the backbone, for messages.
        marker: a pattern of a key by which the repository is recognised; see ``BACKBONES``.
        rules: the repository's names -> the names in timm's or smp's encoder.
        output_norms: the repository's names -> the names of EncoderBackbone's ``output_norms``,
            the norms of its feature maps.
        rearrange: converts each tensor of the encoder to its layout in this project.
    """

    code: str
    marker: str
    rules: Rules
    output_norms: Rules = MappingProxyType({})
    rearrange: Rearrange = keep


def _one_more(template: str) -> Callable[[re.Match], str]:
    """A replacement in which ``{}`` is the number in the first group plus 1."""
    return lambda match: match.expand(template.format(int(match[1]) + 1))


def _from_unfold(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Reorder the channels of mmsegmentation's patch merging as in the Swin repository.

    Patch merging concatenates the channels of four neighbours. mmsegmentation orders them by
    channel, row and column (nn.Unfold), the Swin repository by column, row and channel.
    """
    if re.search(r"downsample\.(norm|reduction)\.", name):
        by_neighbour = tensor.unflatten(-1, (-1, 2, 2))
        tensor = by_neighbour.transpose(-3, -1).flatten(-3).contiguous()
    return {name: tensor}


def _split_attention(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Convert mmsegmentation's MiT to SegFormer's layout.

    mmsegmentation has one projection for query, key and value, and 1x1 convolutions in place of
    linear layers.
    """
    attention, found, kind = name.partition("in_proj_")
    if found:
        channels = tensor.shape[0] // 3
        query, key_value = tensor.split([channels, 2 * channels])
        return {f"{attention}q.{kind}": query.clone(), f"{attention}kv.{kind}": key_value.clone()}
    if re.search(r"mlp\.fc[12]\.weight", name):
        tensor = tensor.flatten(1)
    return {name: tensor}


# In timm, patch merging belongs to the next stage.
_SWIN_DOWNSAMPLE = _one_more("layers_{}.downsample")
_SWIN_OUTPUT_NORMS = {r"norm([0-3])": lambda match: f"res{int(match[1]) + 2}"}


def _mobilenet_layer(match: re.Match) -> str:
    """The name in timm of a convolution or norm of a block; the first block has no expansion."""
    stage, block, conv, kind = match.groups()
    convs = ["conv_dw", "conv_pw"] if stage == "1" else ["conv_pw", "conv_dw", "conv_pwl"]
    number = int(conv)
    layer = f"bn{number + 1}" if kind == "bn" else convs[min(number, len(convs) - 1)]
    return f"blocks.{int(stage) - 1}.{block}.{layer}"


# In the order of detection: an earlier marker may be more specific than a later one.
BACKBONES = (
    BackboneNames(
        "mmsegmentation's Swin",
        r"patch_embed\.projection\.weight",
        {
            r"patch_embed\.projection": "patch_embed.proj",
            r"patch_embed\.norm": "patch_embed.norm",
            r"stages\.(\d)\.downsample": _SWIN_DOWNSAMPLE,
            r"stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa": r"layers_\1.blocks.\2.attn",
            r"stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0": r"layers_\1.blocks.\2.mlp.fc1",
            r"stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1": r"layers_\1.blocks.\2.mlp.fc2",
            r"stages\.(\d)\.blocks\.(\d+)\.(norm[12])": r"layers_\1.blocks.\2.\3",
        },
        _SWIN_OUTPUT_NORMS,
        _from_unfold,
    ),
    BackboneNames(
        "the Swin repository's Swin",
        r"layers\.0\.blocks\.0\.attn\.qkv\.weight",
        {
            r"patch_embed": "patch_embed",
            r"layers\.(\d)\.downsample": _SWIN_DOWNSAMPLE,
            r"layers\.(\d)\.blocks": r"layers_\1.blocks",
        },
        _SWIN_OUTPUT_NORMS,
    ),
    BackboneNames(
        "mmsegmentation's MiT",
        r"layers\.0\.0\.projection\.weight",
        {
            r"layers\.(\d)\.0\.projection": _one_more("patch_embed{}.proj"),
            r"layers\.(\d)\.0\.norm": _one_more("patch_embed{}.norm"),
            r"layers\.(\d)\.1\.(\d+)\.attn\.attn\.out_proj": _one_more(r"block{}.\2.attn.proj"),
            r"layers\.(\d)\.1\.(\d+)\.attn\.attn": _one_more(r"block{}.\2.attn"),
            r"layers\.(\d)\.1\.(\d+)\.ffn\.layers\.0": _one_more(r"block{}.\2.mlp.fc1"),
            r"layers\.(\d)\.1\.(\d+)\.ffn\.layers\.1": _one_more(r"block{}.\2.mlp.dwconv.dwconv"),
            r"layers\.(\d)\.1\.(\d+)\.ffn\.layers\.4": _one_more(r"block{}.\2.mlp.fc2"),
            r"layers\.(\d)\.1": _one_more("block{}"),
            r"layers\.(\d)\.2": _one_more("norm{}"),
        },
        rearrange=_split_attention,
    ),
    BackboneNames(
        "SegFormer's MiT",
        r"block1\.0\.attn\.q\.weight",
        {r"((?:patch_embed|block|norm)[1-4])": r"\1"},
    ),
    BackboneNames(
        "HRNet",
        r"stage2\.0\.branches\.0\.0\.conv1\.weight",
        {r"((?:conv|bn)[12]|layer1|transition[1-3]|stage[2-4])": r"\1"},
    ),
    BackboneNames(
        "mmsegmentation's MobileNetV2",
        r"layer1\.0\.conv\.0\.conv\.weight",
        {
            r"conv1\.conv": "conv_stem",
            r"conv1\.bn": "bn1",
            r"layer([1-7])\.(\d)\.conv\.([0-2])\.(conv|bn)": _mobilenet_layer,
        },
    ),
    BackboneNames(
        "ResNet",
        r"layer1\.0\.conv1\.weight",
        {
            # The deep stem of ResNetV1c: three convolutions, each with norm and activation.
            r"stem\.([01346])": r"conv1.\1",
            r"stem\.7": "bn1",
            r"(conv1|bn1|layer[1-4])": r"\1",
        },
    ),
)


def find_backbone_names(keys: Iterable[str]) -> BackboneNames:
    """The first entry of ``BACKBONES`` whose marker is among the keys.

    Args:
        keys: the names of a backbone's weights, without a prefix.

    Raises:
        UserError: the keys match no entry.
    """
    keys = list(keys)
    for names in BACKBONES:
        if any(re.fullmatch(names.marker, key) for key in keys):
            return names
    raise UserError(
        f"The names of the backbone's weights ({', '.join(keys[:5]) or 'none'}, ...) are unknown. "
        f"Supported backbones are {', '.join(names.code for names in BACKBONES)}."
    )
