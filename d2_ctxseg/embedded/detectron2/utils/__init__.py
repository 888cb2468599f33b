"""Small tools: registries, communication between processes, events, logging, files."""

from .._coverage import module_getattr

__getattr__ = module_getattr(__name__)
