"""Checks whether the weights in a file are finite and fit a model."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..utils.errors import UserError, shown

# Counters of batch norm. Every model with batch norm has them, so they tell nothing about a file.
_COUNTERS = ("num_batches_tracked",)


def describe_differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The keys that are missing, unexpected or of another shape, as text; "" if there are none.

    Args:
        found: the weights in the file.
        expected: the weights of the model.
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
    """Raise UserError if a file provided nothing for a model but counters.

    Args:
        expected: names of the model's weights.
        unfilled: names of those that the file did not provide.
        not_used: names in the file that the model does not have.
    """
    weights = [key for key in expected if not key.endswith(_COUNTERS)]
    if weights and set(weights) <= set(unfilled):
        raise UserError(
            "Nothing in the weights fits the model of this config. The model has "
            f"{some(weights)}; not used from the file: {some(not_used)}."
        )


def refuse_not_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError if weights hold NaN or infinity.

    Args:
        weights: name -> value, on any device; only floating-point tensors are checked.
        source: where they come from, for the message.
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
            f"The weights in '{source}' are not finite: NaN or infinity in {some(bad)}. Training "
            "that diverged writes such a file; use an earlier checkpoint."
        )


def refuse_other_content(weights: object, source: str) -> None:
    """Raise UserError if ``weights`` is not a mapping from names to tensors or arrays."""
    if not isinstance(weights, Mapping):
        raise UserError(f"'{source}' holds {shown(weights)}, expected a dict of weights.")
    other = [name for name, value in weights.items() if not hasattr(value, "shape")]
    if other:
        are = "is not a tensor" if len(other) == 1 else "are not tensors"
        raise UserError(
            f"'{source}' is not a checkpoint of a model: {some(other)} {are}. Expected a dict of "
            "weights, or one as the entry 'model' or 'state_dict'."
        )


def refuse_other_names(content: Mapping, source: str) -> None:
    """Raise UserError if a key of a file is not a string."""
    other = [key for key in content if not isinstance(key, str)]
    if other:
        raise UserError(
            f"'{source}' is not a checkpoint of a model: it has the keys "
            f"{some(map(repr, other))}, expected the names of weights."
        )


def some(keys: Iterable[str], count: int = 10) -> str:
    """The first ``count`` names as text, with the number of further names."""
    keys = list(keys)
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return (", ".join(keys[:count]) or "nothing") + more


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if hasattr(value, "shape") else f"no tensor, {value!r:.30}"
