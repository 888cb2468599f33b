"""The config system: ``get_cfg``, ``CfgNode`` and ``configurable``."""

from .._coverage import module_getattr
from .config import CfgNode, get_cfg, global_cfg, set_global_cfg
from .configurable import configurable

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]

__getattr__ = module_getattr(__name__)
