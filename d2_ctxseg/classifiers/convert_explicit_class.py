"""Weights of the authors' ECENet code for this project's ECEHead."""

import re
from collections.abc import Mapping

from torch import Tensor

# The authors' module names (regular expressions) and ours.
_MODULES = {
    r"conv_seg": r"predictor",
    r"trans": r"assistance.classify",
    r"proj\.conv": r"fuse.0",
    r"proj\.bn": r"fuse.1",
    r"laterals\.(\d+)": r"laterals.\1",
    r"learner\.([01])": r"seed_mask.\1",
    r"token_emb\.(\d+)\.cls_learner": r"extractions.\1.projection",
    r"layer_slcts\.(\d+)\.primary\.([01])": r"reconstructions.\1.intrinsic.\2",
    r"layer_slcts\.(\d+)\.cheap\.([01])": r"reconstructions.\1.diverse.\2",
    r"layer_slcts\.(\d+)\.layer_channel_slct\.([02])": r"reconstructions.\1.gate.\2",
    r"layer_slcts\.(\d+)\.conv_out": r"reconstructions.\1.merge",
    r"norms\.(\d+)": r"reconstructions.\1.norm",
    r"transfer\.(\d+)\.norm_low": r"attentions.\1.feature_norm",
    r"transfer\.(\d+)\.norm_high": r"attentions.\1.embedding_norm",
    r"transfer\.(\d+)\.norm_mlp": r"attentions.\1.mlp_norm",
    r"transfer\.(\d+)\.cross_attn\.q\.depthwise_conv\.conv": r"attentions.\1.query.0",
    r"transfer\.(\d+)\.cross_attn\.q\.pointwise_conv\.conv": r"attentions.\1.query.1",
    r"transfer\.(\d+)\.cross_attn\.kv": r"attentions.\1.key_value",
    r"transfer\.(\d+)\.cross_attn\.proj": r"attentions.\1.projection",
    r"transfer\.(\d+)\.mlp\.([01])": r"attentions.\1.mlp.\2",
    # Their dropout is a layer in between.
    r"transfer\.(\d+)\.mlp\.4": r"attentions.\1.mlp.3",
    r"gated_tokens\.(\d+)\.dynamic_layer": r"updaters.\1.extracted_layer",
    r"gated_tokens\.(\d+)\.input_layer": r"updaters.\1.current_layer",
    r"gated_tokens\.(\d+)\.update_gate": r"updaters.\1.gate_layer",
    r"gated_tokens\.(\d+)\.norm_in": r"updaters.\1.gate_norm",
    r"gated_tokens\.(\d+)\.norm_out": r"updaters.\1.extracted_norm",
    r"gated_tokens\.(\d+)\.fc_layer": r"updaters.\1.output_layer",
    r"gated_tokens\.(\d+)\.fc_norm": r"updaters.\1.output_norm",
    r"ghost_up_layers\.(\d+)\.layers\.(\d+)\.(primary|cheap)\.conv": r"upsamplers.\1.\2.\3.0",
    r"ghost_up_layers\.(\d+)\.layers\.(\d+)\.(primary|cheap)\.bn": r"upsamplers.\1.\2.\3.1",
}
_TENSOR = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_HEAD_PREFIX = re.compile(r"(?:module\.)?decode_head\.")


def convert_ecenet_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the authors' decode head to those of ECEHead.

    Args:
        state_dict: of a decode head alone, or of a whole model: where a key begins with
            ``decode_head.`` or ``module.decode_head.``, only such keys are taken.

    Returns:
        The same tensors under the names of ECEHead with its default switches, ready for
        ``head.load_state_dict``.

    Raises:
        ValueError: keys of the head that the authors' code does not have; all are named.
    """
    in_head = {
        key[prefix.end() :]: tensor
        for key, tensor in state_dict.items()
        if (prefix := _HEAD_PREFIX.match(key))
    }
    converted, unknown = {}, []
    for key, tensor in (in_head or state_dict).items():
        name = _convert(key)
        if name is None:
            unknown.append(key)
        else:
            converted[name] = tensor
    if unknown:
        raise ValueError(
            f"These keys are not of an ECENet decode head: {', '.join(unknown)}. Expected names "
            "such as 'token_emb.0.cls_learner.weight', with or without 'decode_head.' before them."
        )
    return converted


def _convert(key: str) -> str | None:
    for pattern, name in _MODULES.items():
        match = re.fullmatch(pattern + _TENSOR, key)
        if match:
            return f"{match.expand(name)}.{match[match.lastindex]}"
    return None
