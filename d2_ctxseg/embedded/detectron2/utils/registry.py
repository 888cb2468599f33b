"""``Registry``: names, as found in config files, mapped to functions and classes."""

from fvcore.common.registry import Registry

from .._coverage import module_getattr

__all__ = ["Registry"]

__getattr__ = module_getattr(__name__)
