"""Evaluate a trained model: a training with nothing to train."""

from .train_net import main

__all__ = ["main"]
