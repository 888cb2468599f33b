"""Names of backbones in the authors' code, and what they are called in timm's and smp's encoders.

The codes are mmsegmentation 0.x and 1.x (https://github.com/open-mmlab/mmsegmentation), the Swin
repositories (https://github.com/microsoft/Swin-Transformer), SegFormer
(https://github.com/NVlabs/SegFormer) and HRNet (https://github.com/HRNet).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from ..utils.errors import UserError

# A pattern for the beginning of a key, up to a dot or the end, and what to put in its place: a
# template as of re.Match.expand, or a function of the match.
Rules = Mapping[str, str | Callable[[re.Match], str]]
# Makes, of a new name and its tensor, the tensors that the module here has, by their names.
Rearrange = Callable[[str, Tensor], dict[str, Tensor]]


def keep(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The tensor as it is."""
    return {name: tensor}


def rename(key: str, rules: Rules) -> str | None:
    """The key with its beginning renamed by the first rule that matches; None if none does."""
    for pattern, replacement in rules.items():
        match = re.match(rf"(?:{pattern})(?=\.|$)", key)
        if match:
            name = replacement(match) if callable(replacement) else match.expand(replacement)
            return name + key[match.end() :]
    return None


class BackboneNames(NamedTuple):
    """How one code names a backbone.

    ``marker`` is a pattern for a key that no other code has; ``rules`` give the names in timm's or
    smp's encoder; ``output_norms`` those of EncoderBackbone's norms of its feature maps.
    """

    code: str
    marker: str
    rules: Rules
    output_norms: Rules = MappingProxyType({})
    rearrange: Rearrange = keep


def _one_more(template: str) -> Callable[[re.Match], str]:
    """A replacement with the first group, a number, plus 1 in place of ``{}``."""
    return lambda match: match.expand(template.format(int(match[1]) + 1))


def _from_unfold(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The channels of mmsegmentation's patch merging in the order of the Swin repository.

    Four neighbours' channels stand side by side: there by channel, row and column (nn.Unfold),
    here by column, row and channel.
    """
    if re.search(r"downsample\.(norm|reduction)\.", name):
        by_neighbour = tensor.unflatten(-1, (-1, 2, 2))
        tensor = by_neighbour.transpose(-3, -1).flatten(-3).contiguous()
    return {name: tensor}


def _split_attention(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """mmsegmentation's MiT: joint query, key and value; 1x1 convolutions for linear layers."""
    attention, found, kind = name.partition("in_proj_")
    if found:
        channels = tensor.shape[0] // 3
        query, key_value = tensor.split([channels, 2 * channels])
        return {f"{attention}q.{kind}": query.clone(), f"{attention}kv.{kind}": key_value.clone()}
    if re.search(r"mlp\.fc[12]\.weight", name):
        tensor = tensor.flatten(1)
    return {name: tensor}


# timm counts a stage's patch merging as part of the next stage.
_SWIN_DOWNSAMPLE = _one_more("layers_{}.downsample")
_SWIN_OUTPUT_NORMS = {r"norm([0-3])": lambda match: f"res{int(match[1]) + 2}"}


def _mobilenet_layer(match: re.Match) -> str:
    """timm has names for the convolutions of a block; the first block has no expansion."""
    stage, block, conv, kind = match.groups()
    convs = ["conv_dw", "conv_pw"] if stage == "1" else ["conv_pw", "conv_dw", "conv_pwl"]
    number = int(conv)
    layer = f"bn{number + 1}" if kind == "bn" else convs[min(number, len(convs) - 1)]
    return f"blocks.{int(stage) - 1}.{block}.{layer}"


# In the order of detection: an earlier marker may be more special than a later one.
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
            # The deep stem: of ResNetV1c, three convolutions with norm and activation.
            r"stem\.([01346])": r"conv1.\1",
            r"stem\.7": "bn1",
            r"(conv1|bn1|layer[1-4])": r"\1",
        },
    ),
)


def find_backbone_names(keys: Iterable[str]) -> BackboneNames:
    """The code that named a backbone.

    Args:
        keys: of the backbone alone, without a prefix.

    Raises:
        UserError: it is none of those known.
    """
    keys = list(keys)
    for names in BACKBONES:
        if any(re.fullmatch(names.marker, key) for key in keys):
            return names
    raise UserError(
        f"The backbone's weights ({', '.join(keys[:5]) or 'none'}, ...) are named as in no code "
        f"known here; known are {', '.join(names.code for names in BACKBONES)}."
    )
