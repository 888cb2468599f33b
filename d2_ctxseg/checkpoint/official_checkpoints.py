"""Weights released by the authors, under the names of this project."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..utils.errors import UserError, suggest

# The authors' module names (regular expressions) and ours; "" for what has no place here.
CONTEXT_AWARE_NAMES = {
    r"conv_seg": r"predictor",
    r"proj\.([02])": r"estimated_projector.\1",
    r"apd_proj\.([02])": r"oracle_projector.\1",
}
SEMANTIC_SPATIAL_NAMES = {
    r"conv_seg": r"predictor",
    r"get_feat_pos": r"position_encoding",
    r"center_pos\.weight": r"position_vectors",
    r"center_content_proj\.([02])": r"semantic_projector.\1",
    r"center_pos_proj\.([02])": r"spatial_projector.\1",
    r"center_proj": r"weight_projection",
    r"gt_center_content_proj\.([02])": r"oracle_semantic_projector.\1",
    r"gt_center_pos_proj\.([02])": r"oracle_spatial_projector.\1",
    r"gt_center_proj": r"oracle_weight_projection",
}
PROTOTYPE_NAMES = {
    r"prototypes": r"prototypes",
    r"feat_norm": r"feature_norm",
    r"mask_norm": r"score_norm",
    r"proj_head\.proj\.0": r"projection.0",
    # Their BatchNorm and ReLU are a sequence in the sequence.
    r"proj_head\.proj\.1\.0": r"projection.1",
    r"proj_head\.proj\.2": r"projection.3",
}
GAUSSIAN_MIXTURE_NAMES = {
    r"means": r"means",
    r"diagonal": r"scales",
    r"queue": r"memory.samples",
    r"queue_ptr": r"memory.pointers",
    r"iteration_counter": r"memory.steps",
    r"feat_norm": r"feature_norm",
    r"mask_norm": r"score_norm",
    r"projection\.conv": r"projection.0",
    r"projection\.bn": r"projection.1",
    # Ones, and the vanilla classifier, which nothing reads.
    r"eye_matrix|conv_seg": "",
}
EXPLICIT_CLASS_NAMES = {
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
_TENSOR = r"(?:\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?"
# What comes before the module's name in a checkpoint of a whole model.
_HEAD = r"(?:module\.)?decode_head\.(?:(?P<stage>\d+)\.)?"
_METHODS = {
    "cac": (CONTEXT_AWARE_NAMES, _HEAD),
    "ssa": (SEMANTIC_SPATIAL_NAMES, _HEAD),
    "protoseg": (PROTOTYPE_NAMES, r"module\."),
    "gmmseg": (GAUSSIAN_MIXTURE_NAMES, _HEAD),
    "ecenet": (EXPLICIT_CLASS_NAMES, _HEAD),
}


def convert_official_state_dict(state_dict: Mapping[str, Tensor], method: str) -> dict[str, Tensor]:
    """Rename weights of the authors' code to those of this project's classifier or head.

    Args:
        state_dict: of the classifier (of ECENet: the decode head) alone, or of a whole model, of
            which the other parts are left out. It may lie under the key "state_dict".
        method: "cac" (https://github.com/tianzhuotao/CAC) for ContextAwareClassifier, "ssa"
            (https://github.com/xwmaxwma/SSA-Seg) for SemanticSpatialClassifier, "protoseg"
            (https://github.com/tfzhou/ProtoSeg) for PrototypeClassifier, with ``projection=True``
            where the checkpoint has one, "gmmseg" (https://github.com/leonnnop/GMMSeg) for
            GaussianMixtureClassifier, whose ``memory_size`` must be the checkpoint's unless the
            keys that begin with "memory." are left out, or "ecenet" for ECEHead with its default
            switches.

    Returns:
        The same tensors, ready for ``load_state_dict`` of that module.

    Raises:
        UserError: the method is unknown, keys of the head are not known, or there are none.
    """
    if method not in _METHODS:
        raise UserError(
            f"No official checkpoints of method '{method}'; there are {', '.join(_METHODS)}."
            f"{suggest(method, _METHODS)}"
        )
    modules, prefix = _METHODS[method]
    state_dict = state_dict.get("state_dict", state_dict)
    candidates, is_whole_model = _strip_prefix(state_dict, prefix)
    names = {key: _rename(key, modules) for key in candidates}
    # Around a classifier there is more in a head and a model; an ECEHead is a whole head.
    unknown = [key for key, name in names.items() if name is None]
    if unknown and (method == "ecenet" or not is_whole_model):
        raise UserError(
            f"These keys are not of the authors' {method}: {', '.join(unknown)}. Expected names "
            f"such as {_examples(modules)}, alone or in a whole model."
        )
    converted = {name: candidates[key] for key, name in names.items() if name}
    if not converted:
        raise UserError(
            f"There is nothing of the authors' {method} in these {len(state_dict)} weights: "
            f"expected names such as {_examples(modules)}."
        )
    return converted


def _strip_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> tuple[dict, bool]:
    """The part of a whole model that the method is in, and whether it is one."""
    matches = {key: re.match(prefix, key) for key in state_dict}
    in_head = {key: match for key, match in matches.items() if match}
    if not in_head:
        return dict(state_dict), any(key.startswith("backbone.") for key in state_dict)
    # Of a cascade of heads the last one has the classifier.
    stages = [match.groupdict().get("stage") for match in in_head.values()]
    last = max(stages, key=lambda stage: int(stage or 0))
    return {
        key[match.end() :]: state_dict[key]
        for (key, match), stage in zip(in_head.items(), stages)
        if stage == last
    }, True


def _rename(key: str, modules: Mapping[str, str]) -> str | None:
    for pattern, name in modules.items():
        match = re.fullmatch(f"({pattern})({_TENSOR})", key)
        if match:
            # The pattern's own groups are counted from 1 in the table, from 2 here.
            return name and re.sub(pattern, name, match[1]) + match[match.lastindex]
    return None


def _examples(modules: Mapping[str, str]) -> str:
    names = [re.sub(r"\\(.)", r"\1", pattern) for pattern in list(modules)[:2]]
    return ", ".join(f"'{name}'" for name in names)
