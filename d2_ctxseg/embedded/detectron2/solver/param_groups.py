"""The parameters of a model, in groups that share rate and weight decay."""

from collections import defaultdict
from collections.abc import Callable

from torch import nn

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict]:
    """Parameter groups for an optimizer; parameters without gradient are left out.

    Later arguments win over earlier ones where several say something about a parameter.

    Args:
        model: the model.
        base_lr: the rate of all groups. None: the optimizer's.
        weight_decay: the weight decay of all groups. None: the optimizer's.
        weight_decay_norm: the weight decay in normalization layers.
        lr_factor_func: maps a parameter's full name to a factor on ``base_lr``.
        bias_lr_factor: biases get this times ``base_lr`` as their rate.
        weight_decay_bias: the weight decay of biases.
        overrides: maps the last part of a parameter's name ("bias", "embedding") to the options of
            those parameters, as {"lr": ..., "weight_decay": ...}.

    Returns:
        As few groups as possible, each {"params": [...], "lr": ..., "weight_decay": ...} with only
        the options that were given.

    Raises:
        ValueError: a factor on the rate without ``base_lr``, or "bias" both in ``overrides`` and
            in an argument.
    """
    if base_lr is None and (lr_factor_func is not None or bias_lr_factor not in (None, 1.0)):
        raise ValueError("bias_lr_factor and lr_factor_func multiply base_lr: give that, too.")
    overrides = _with_bias_options(overrides, base_lr, bias_lr_factor, weight_decay_bias)

    groups = []
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            options = {"lr": base_lr, "weight_decay": weight_decay}
            options = {key: value for key, value in options.items() if value is not None}
            if isinstance(module, NORM_LAYERS) and weight_decay_norm is not None:
                options["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                options["lr"] *= lr_factor_func(f"{module_name}.{name}")
            options.update(overrides.get(name, {}))
            groups.append({"params": [parameter], **options})
    return reduce_param_groups(groups)


def _with_bias_options(overrides, base_lr, bias_lr_factor, weight_decay_bias) -> dict:
    """``overrides`` and what the arguments say about biases."""
    overrides = overrides or {}
    options = {}
    if bias_lr_factor not in (None, 1.0):
        options["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        options["weight_decay"] = weight_decay_bias
    if options and "bias" in overrides:
        raise ValueError("Conflicting overrides for 'bias': in 'overrides' and in an argument.")
    return {**overrides, "bias": options} if options else overrides


def reduce_param_groups(params: list[dict]) -> list[dict]:
    """Merge parameter groups that have the same options: optimizers are faster with few groups.

    Args:
        params: parameter groups. Where a parameter is in several, later options win.

    Returns:
        The merged groups, in the order in which their options first appear.
    """
    options_of = defaultdict(dict)
    for group in params:
        options = {key: value for key, value in group.items() if key != "params"}
        for parameter in group["params"]:
            options_of[parameter].update(options)
    merged = defaultdict(list)
    for parameter, options in options_of.items():
        merged[tuple(options.items())].append(parameter)
    return [{**dict(options), "params": parameters} for options, parameters in merged.items()]
