"""Parameter groups that share rate and weight decay."""

from collections import defaultdict


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
