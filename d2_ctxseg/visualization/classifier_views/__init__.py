"""Pictures of what the classifiers do: contexts, prototypes, masks, and how sure they are.

Each classifier has a file of its own: first what is computed, then how it is shown. ``drawing.py``
has the parts that pictures are made of.
"""

from .scene import ClassifierView
from .views import draw_classifier_views

__all__ = ["ClassifierView", "draw_classifier_views"]
