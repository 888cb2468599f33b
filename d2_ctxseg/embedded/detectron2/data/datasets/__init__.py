"""Loaders of datasets."""

from ..._coverage import module_getattr
from .sem_seg import load_sem_seg

__all__ = ["load_sem_seg"]

__getattr__ = module_getattr(__name__)
