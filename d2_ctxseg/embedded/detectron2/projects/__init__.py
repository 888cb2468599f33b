"""Detectron2's projects: only the parts of DeepLab that are not its model."""

from .._coverage import module_getattr

__getattr__ = module_getattr(__name__)
