"""Draws label maps: overlays, comparisons, legends. ``classifier_views`` draws classifiers."""

from .overlays import (
    class_color,
    class_name,
    class_shares,
    draw_comparison,
    draw_labelled,
    draw_legend,
    draw_legend_strip,
    draw_overlay,
)

__all__ = [
    "class_color",
    "class_name",
    "class_shares",
    "draw_comparison",
    "draw_labelled",
    "draw_legend",
    "draw_legend_strip",
    "draw_overlay",
]
