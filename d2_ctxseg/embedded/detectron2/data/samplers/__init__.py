"""Samplers: the order in which elements of a dataset are used."""

from .distributed_sampler import InferenceSampler, TrainingSampler

__all__ = ["InferenceSampler", "TrainingSampler"]
