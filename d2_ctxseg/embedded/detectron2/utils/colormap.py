"""A palette of distinct colours for classes that have none of their own."""

import colorsys
import random

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

PALETTE_SIZE = 96
# Multiples of the golden ratio spread over the colour circle so that neighbours in the palette
# differ strongly in hue.
GOLDEN_RATIO = 0.618033988749895
# (saturation, brightness), one after another: equal hues still differ in one of the two.
SHADES = ((0.85, 0.95), (0.55, 0.85), (0.95, 0.65))


def _make_palette() -> np.ndarray:
    colors = [
        colorsys.hsv_to_rgb(i * GOLDEN_RATIO % 1.0, *SHADES[i % len(SHADES)])
        for i in range(PALETTE_SIZE)
    ]
    return np.array(colors, dtype=np.float32)


_COLORS = _make_palette()


def _scaled(colors: np.ndarray, rgb: bool, maximum: int) -> np.ndarray:
    if maximum not in (1, 255):
        raise AssertionError(f"maximum has to be 1 or 255, not {maximum}")
    return (colors if rgb else colors[..., ::-1]) * np.float32(maximum)


def colormap(rgb=False, maximum=255):
    """The whole palette: float32 (N, 3), RGB or (default) BGR, in [0, ``maximum``] (1 or 255)."""
    return _scaled(_COLORS, rgb, maximum)


def random_color(rgb=False, maximum=255):
    """One colour of the palette, drawn from numpy's global generator: float32 (3,)."""
    return _scaled(_COLORS[np.random.randint(0, len(_COLORS))], rgb, maximum)  # noqa: NPY002


def random_colors(N, rgb=False, maximum=255):
    """A list of ``N`` different colours of the palette, drawn from ``random``'s global generator.

    Raises ValueError if the palette has fewer than ``N``.
    """
    indices = random.sample(range(len(_COLORS)), N)
    return [_scaled(_COLORS[index], rgb, maximum) for index in indices]
