"""``Registry``: names, as found in config files, mapped to functions and classes."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]
