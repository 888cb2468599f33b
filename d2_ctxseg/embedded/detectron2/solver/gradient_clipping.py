"""Optimizers that clip gradients in their ``step``."""

import functools

from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer


def maybe_add_gradient_clipping(cfg, optimizer: type[Optimizer]) -> type[Optimizer]:
    """Make optimizers clip the gradient of each parameter, as ``SOLVER.CLIP_GRADIENTS`` says.

    Args:
        cfg: a config; read: ``SOLVER.CLIP_GRADIENTS``.
        optimizer: a class of optimizers.

    Returns:
        ``optimizer`` itself if clipping is off, otherwise a subclass of it, named
        ``<its name>WithGradientClip``.

    Raises:
        ValueError: CLIP_TYPE is neither "value" nor "norm".
    """
    options = cfg.SOLVER.CLIP_GRADIENTS
    if not options.ENABLED:
        return optimizer
    return _clipping_class(optimizer, _gradient_clipper(options))


def _gradient_clipper(options):
    """A function that clips the gradient of one parameter in place."""
    if options.CLIP_TYPE == "value":
        return functools.partial(clip_grad_value_, clip_value=options.CLIP_VALUE)
    if options.CLIP_TYPE == "norm":
        return functools.partial(
            clip_grad_norm_, max_norm=options.CLIP_VALUE, norm_type=options.NORM_TYPE
        )
    raise ValueError(
        f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'value' or 'norm', not {options.CLIP_TYPE!r}."
    )


def _clipping_class(base: type[Optimizer], clip) -> type[Optimizer]:
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    clip(parameter)
        return base.step(self, closure)

    return type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
