"""Whether the weights of a file are those of a model, and numbers at all."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..utils.errors import UserError, shown

# Counters of batch norm: every model with batch norm has them, whatever its weights are.
_COUNTERS = ("num_batches_tracked",)


def describe_differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What the weights of a file lack, have besides and have in another shape; "" if nothing.

    Args:
        found: in the file.
        expected: by the model.
    """
    problems = {
        "missing in the file": [key for key in expected if key not in found],
        "not in the model": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} (file {_shape(found[key])}, model {_shape(expected[key])})"
            for key in expected
            if key in found and _shape(found[key]) != _shape(expected[key])
        ],
    }
    return "; ".join(
        f"{len(keys)} {problem}: {some(keys)}" for problem, keys in problems.items() if keys
    )


def refuse_what_does_not_fit(
    expected: Iterable[str], unfilled: Iterable[str], not_used: Iterable[str]
) -> None:
    """Raise UserError if a file filled nothing of a model but counters.

    Args:
        expected: names of the model's weights.
        unfilled: those that the file did not fill.
        not_used: names of the file that the model does not have.
    """
    weights = [key for key in expected if not key.endswith(_COUNTERS)]
    if weights and set(weights) <= set(unfilled):
        raise UserError(
            "Nothing in the weights fits the model of this config. The model has "
            f"{some(weights)}; not used of the file: {some(not_used)}."
        )


def refuse_not_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError if weights hold NaN or infinity: whatever they predict means nothing.

    Args:
        weights: by name, on any device; what is no floating-point tensor is passed over.
        source: where they come from.
    """
    bad = [
        name
        for name, value in weights.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and not torch.isfinite(value).all()
    ]
    if bad:
        raise UserError(
            f"The weights in '{source}' are not all numbers: NaN or infinity in {some(bad)}. A "
            "training that diverged leaves such a file; take an earlier checkpoint."
        )


def refuse_other_content(weights: object, source: str) -> None:
    """Raise UserError if something is no mapping from names to tensors or arrays."""
    if not isinstance(weights, Mapping):
        raise UserError(f"'{source}' holds {shown(weights)}, expected weights by their names.")
    other = [name for name, value in weights.items() if not hasattr(value, "shape")]
    if other:
        raise UserError(
            f"'{source}' holds no tensors under {some(other)}: it is no checkpoint of a model. "
            "Expected weights by their names, or those as the entry 'model' or 'state_dict'."
        )


def refuse_other_names(content: Mapping, source: str) -> None:
    """Raise UserError if the keys of a file are no names, as those of weights are."""
    other = [key for key in content if not isinstance(key, str)]
    if other:
        raise UserError(
            f"'{source}' has the keys {some(map(repr, other))}, expected the names of weights. "
            "It is no checkpoint of a model."
        )


def some(keys: Iterable[str], count: int = 10) -> str:
    """The first of some names, and how many there are more."""
    keys = list(keys)
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return (", ".join(keys[:count]) or "nothing") + more


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if hasattr(value, "shape") else f"no tensor, {value!r:.30}"
