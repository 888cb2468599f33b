"""Colours for the classes of a dataset without a palette."""

import colorsys

# The golden ratio's fraction: multiples of it, modulo 1, never come close to each other soon.
_HUE_STEP = 0.618033988749895
_SATURATIONS_AND_VALUES = ((0.75, 0.95), (0.55, 0.75), (0.95, 0.65), (0.40, 1.0))


def generate_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Distinguishable (r, g, b) colours, 0-255: the first ones do not depend on their number."""
    palette = []
    for index in range(num_classes):
        saturation, value = _SATURATIONS_AND_VALUES[index % len(_SATURATIONS_AND_VALUES)]
        rgb = colorsys.hsv_to_rgb(index * _HUE_STEP % 1.0, saturation, value)
        palette.append(tuple(round(255 * channel) for channel in rgb))
    return tuple(palette)
