"""Convert published weights of classifiers and of ECENet's head to the names of this project."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..utils.errors import UserError, counted, suggest

# The authors' module names (regular expressions) -> ours; "" if there is no counterpart.
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
    # The authors nest BatchNorm and ReLU in an inner nn.Sequential.
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
    # A matrix of ones, and the vanilla classifier, which is unused.
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
    # The authors have a dropout layer in between.
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
# The prefix of a module's name in a checkpoint of a whole model.
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
        state_dict: the weights of the classifier ("ecenet": of the decode head) or of a whole
            model, of which the other modules are ignored. They may be the entry "state_dict".
        method: the authors' code, and the module that the weights are for:

            - "cac" (https://github.com/tianzhuotao/CAC): ContextAwareClassifier;
            - "ssa" (https://github.com/xwmaxwma/SSA-Seg): SemanticSpatialClassifier;
            - "protoseg" (https://github.com/tfzhou/ProtoSeg): PrototypeClassifier, with
              ``projection=True`` if the checkpoint has a projection head;
            - "gmmseg" (https://github.com/leonnnop/GMMSeg): GaussianMixtureClassifier. Its
              ``memory_size`` must equal the checkpoint's, unless the keys that begin with
              "memory." are left out;
            - "ecenet": ECEHead with its default options.

    Returns:
        The same tensors under the names of that module, for its ``load_state_dict``.

    Raises:
        UserError: the method is unknown, or the weights contain nothing of it, or unknown keys.
    """
    if method not in _METHODS:
        raise UserError(
            f"Unknown method '{method}', expected one of {', '.join(_METHODS)}."
            f"{suggest(method, _METHODS)}"
        )
    modules, prefix = _METHODS[method]
    state_dict = state_dict.get("state_dict", state_dict)
    candidates, is_whole_model = _strip_prefix(state_dict, prefix)
    names = {key: _rename(key, modules) for key in candidates}
    # The head of a whole model holds more than the classifier. An ECEHead is the whole head.
    unknown = [key for key, name in names.items() if name is None]
    if unknown and (method == "ecenet" or not is_whole_model):
        raise UserError(
            f"These keys do not belong to the authors' {method}: {', '.join(unknown)}. Expected "
            f"names such as {_examples(modules)}, alone or in a whole model."
        )
    converted = {name: candidates[key] for key, name in names.items() if name}
    if not converted:
        raise UserError(
            f"The state dict ({counted(len(state_dict), 'key')}) contains nothing of the authors' "
            f"{method}: expected names such as {_examples(modules)}."
        )
    return converted


def _strip_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> tuple[dict, bool]:
    """The weights without the prefix of a whole model, and whether they are of a whole model."""
    matches = {key: re.match(prefix, key) for key in state_dict}
    in_head = {key: match for key, match in matches.items() if match}
    if not in_head:
        return dict(state_dict), any(key.startswith("backbone.") for key in state_dict)
    # In a cascade of heads, the last head has the classifier.
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
            # The groups of the table's pattern start at 1; here they start at 2.
            return name and re.sub(pattern, name, match[1]) + match[match.lastindex]
    return None


def _examples(modules: Mapping[str, str]) -> str:
    names = [re.sub(r"\\(.)", r"\1", pattern) for pattern in list(modules)[:2]]
    return ", ".join(f"'{name}'" for name in names)
