"""Samplers: the order in which elements of a dataset are used."""

from ..._coverage import module_getattr
from .distributed_sampler import InferenceSampler, RandomSubsetTrainingSampler, TrainingSampler

__all__ = ["InferenceSampler", "RandomSubsetTrainingSampler", "TrainingSampler"]

__getattr__ = module_getattr(__name__)
