"""Evaluate a trained model."""

from .train_net import main

__all__ = ["main"]
