"""``@configurable``: constructors with explicit arguments that can also be called with a config."""

import functools
import inspect

from fvcore.common.config import CfgNode


def configurable(init_func=None, *, from_config=None):
    """Let a constructor (or a function) be called with a config in place of its arguments.

    On a class, decorate ``__init__`` and write a classmethod ``from_config(cls, cfg, ...)`` that
    returns the keyword arguments of ``__init__``. ``A(x=1)`` is then the ordinary call, and
    ``A(cfg, x=1)`` takes everything but ``x`` from the config. On a function, use
    ``@configurable(from_config=lambda cfg: {...})``.

    A call is one with a config if its first positional argument, or the keyword ``cfg``, is a
    ``CfgNode``. Keyword arguments that ``from_config`` names are passed to it; the others go to
    ``__init__`` and override what ``from_config`` returned.

    Args:
        init_func: the ``__init__`` of a class.
        from_config: for functions: maps ``cfg`` (its first argument) to keyword arguments.

    Raises:
        AssertionError: used on something other than ``__init__``, or ``from_config`` is not a
            function.
        AttributeError, TypeError: the class has no classmethod ``from_config`` (when it is built).
    """
    if init_func is None and from_config is None:
        return configurable
    if init_func is None:
        assert inspect.isfunction(from_config), "from_config of @configurable must be a function!"
        return functools.partial(_configurable_function, from_config=from_config)
    assert (
        from_config is None and inspect.isfunction(init_func) and init_func.__name__ == "__init__"
    ), "Incorrect use of @configurable: without arguments, it decorates the __init__ of a class."
    return _configurable_init(init_func)


def _configurable_init(init_func):
    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        translate = getattr(type(self), "from_config", None)
        message = f"{type(self).__name__} with @configurable must have a 'from_config' classmethod."
        if translate is None:
            raise AttributeError(message)
        if not inspect.ismethod(translate):
            raise TypeError(message)
        if _has_config(args, kwargs):
            args, kwargs = (), _arguments_from_config(translate, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(function, *, from_config):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if _has_config(args, kwargs):
            args, kwargs = (), _arguments_from_config(from_config, args, kwargs)
        return function(*args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _has_config(args: tuple, kwargs: dict) -> bool:
    first = args[0] if args else kwargs.get("cfg")
    return isinstance(first, CfgNode) or isinstance(kwargs.get("cfg"), CfgNode)


def _arguments_from_config(from_config, args: tuple, kwargs: dict) -> dict:
    """The keyword arguments for the decorated function."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as the first argument!")
    takes_any = any(
        parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in parameters.values()
    )
    if takes_any:
        return from_config(*args, **kwargs)
    understood = {name: value for name, value in kwargs.items() if name in parameters}
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **understood), **overrides}
