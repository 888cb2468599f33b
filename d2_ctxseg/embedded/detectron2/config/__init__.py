"""The config system: ``get_cfg``, ``CfgNode`` and ``configurable``."""

from .config import CfgNode, get_cfg
from .configurable import configurable

__all__ = ["CfgNode", "configurable", "get_cfg"]
