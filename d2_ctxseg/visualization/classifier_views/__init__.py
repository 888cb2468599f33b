"""Draws how classifiers work: contexts, prototypes, masks, and how certain they are.

Each classifier has a file of its own: first the computation, then the drawing. ``drawing.py`` has
the parts of the drawings.
"""

from .scene import ClassifierView
from .views import draw_classifier_views

__all__ = ["ClassifierView", "draw_classifier_views"]
