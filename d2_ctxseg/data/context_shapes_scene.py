"""Draw a scene of ContextShapes.

A grey room holds a coloured lamp and flat objects in five paints. The class of an object is its
paint; what the camera sees is paint times light, and paints and lights have the same five colours:
an amber object under a white lamp looks like a white object under an amber lamp. So a pixel's
colour alone leaves the class open, and outlines say nothing: the light on the room has to be seen.

Everything is integer arithmetic, so that the pixels are the same on every machine.
"""

from dataclasses import dataclass

import numpy as np

# Colours of both the paints (classes 1 to 5) and the lamps: white, amber, rose, green, blue.
# As 256ths of the light that they let through.
COLORS = np.array(
    [(250, 250, 250), (256, 180, 70), (256, 96, 110), (100, 226, 110), (96, 140, 256)],
    dtype=np.int64,
)
_CLASSES = range(1 + len(COLORS))

# Scenes are drawn at twice their size and averaged down, which smooths the outlines.
_SUPERSAMPLING = 2

_ROOM = np.array([(150, 150, 150), (164, 156, 150), (150, 158, 160), (136, 136, 140)])

# cos(i * 22.5 degrees) * 4096: written down, because libraries' cosines differ in the last bit.
_COSINES = (4096, 3784, 2896, 1567, 0, -1567, -2896, -3784)
_COSINES += tuple(-value for value in _COSINES)

# What reaches the corners of the room, as 256ths of the light at the lamp.
_AMBIENT_LIGHT = 130

_CORNER_UNIT = 64 * 4096

# Outlines as convex polygons, corners counter-clockwise, on a circle of radius 64; None is a disc.
_OUTLINES = (
    None,
    ((45, 45), (-45, 45), (-45, -45), (45, -45)),
    ((64, 0), (-32, 55), (-32, -55)),
    ((64, 0), (32, 55), (-32, 55), (-64, 0), (-32, -55), (32, -55)),
    ((62, 30), (-62, 30), (-62, -30), (62, -30)),
    ((64, 0), (0, 38), (-64, 0), (0, -38)),
)


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8, 0 for the room, 1 + index in ``COLORS`` for objects.
        lamp: index of the lamp's colour in ``COLORS``.
    """

    image: np.ndarray
    label: np.ndarray
    lamp: int


def draw_scene(rng: np.random.RandomState, height: int, width: int) -> Scene:
    """Draw a scene of ``height`` x ``width`` pixels with what ``rng`` chooses."""
    size = np.array([height, width], dtype=np.int64) * _SUPERSAMPLING
    rows = np.arange(size[0], dtype=np.int64)[:, None]
    columns = np.arange(size[1], dtype=np.int64)[None, :]
    lamp = _integer(rng, 0, len(COLORS))
    lamp_at = np.array(
        [
            _integer(rng, size[0] // 8, size[0] * 7 // 8 + 1),
            _integer(rng, size[1] // 8, size[1] * 7 // 8 + 1),
        ]
    )
    reach = int(size.min()) * _integer(rng, 50, 66) // 100
    bulb = int(size.min()) * 7 // 100

    distance2 = (rows - lamp_at[0]) ** 2 + (columns - lamp_at[1]) ** 2
    glow = np.maximum(256 - distance2 * 256 // reach**2, 0)
    image = _room(rng, size, glow) * COLORS[lamp] >> 8
    classes = np.zeros(size, dtype=np.int64)
    for _ in range(_integer(rng, 6, 12)):
        _draw_object(rng, image, classes, COLORS[lamp], lamp_at, bulb)
    _draw_lamp(image, classes, distance2, bulb, lamp)
    image += _integers(rng, -3, 4, tuple(size))[..., None]
    return Scene(_average(np.clip(image, 0, 255)), _majority(classes), lamp)


def _room(rng, size, glow: np.ndarray) -> np.ndarray:
    """The empty room in white light: its grey, a coarse weave, brightness. (H, W, 3) int64."""
    color = _ROOM[_integer(rng, 0, len(_ROOM))] + _integer(rng, -10, 11)
    rows = np.arange(size[0])[:, None]
    columns = np.arange(size[1])[None, :]
    period = 2 * _integer(rng, 4, 9)
    weave = ((rows // period + columns // period) % 2) * 10 - 5
    brightness = _AMBIENT_LIGHT + (glow * (256 - _AMBIENT_LIGHT) >> 8)
    return (color[None, None, :] + weave[..., None]) * brightness[..., None] >> 8


def _draw_object(rng, image, classes, light, lamp_at, bulb: int) -> None:
    """Put one object, with its shadow, somewhere away from the lamp, in ``light`` (3,)."""
    size = np.array(classes.shape)
    radius = int(size.min()) * _integer(rng, 12, 24) // 100
    outline = _OUTLINES[_integer(rng, 0, len(_OUTLINES))]
    turn = _integer(rng, 0, len(_COSINES))
    paint = _integer(rng, 0, len(COLORS))
    tone = _integer(rng, 216, 281)
    center = np.array([_integer(rng, 0, size[0]), _integer(rng, 0, size[1])])
    if ((center - lamp_at) ** 2).sum() < (radius + 2 * bulb) ** 2:
        return
    # Views of the part of the scene that the object and its shadow can reach.
    low = np.maximum(center - radius, 0)
    high = center + radius + radius // 8 + 1
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    pixels, labels = image[window], classes[window]
    y = np.arange(low[0], low[0] + labels.shape[0])[:, None] - center[0]
    x = np.arange(low[1], low[1] + labels.shape[1])[None, :] - center[1]

    shadow = _inside(outline, y - radius // 8, x - radius // 8, radius, turn)
    pixels[shadow] = pixels[shadow] * 150 >> 8
    inside = _inside(outline, y, x, radius, turn)
    rim = inside & ~_inside(outline, y, x, radius * 84 // 100, turn)
    # Lighter at the top than at the bottom, with a darker rim.
    shade = tone - y * 40 // radius - 48 * rim
    color = (COLORS[paint] * light >> 8) * shade[..., None] >> 8
    pixels[inside] = color[inside]
    labels[inside] = 1 + paint


def _draw_lamp(image, classes, distance2, bulb: int, lamp: int) -> None:
    """The bulb itself: a bright disc in a ring of the lamp's colour; part of the room."""
    image[distance2 <= bulb**2] = COLORS[lamp]
    core = distance2 <= (bulb * 60 // 100) ** 2
    image[core] = (COLORS[lamp] + 3 * 255) // 4
    classes[distance2 <= bulb**2] = 0


def _inside(outline, y, x, radius: int, turn: int) -> np.ndarray:
    """Which pixels, (h, 1) and (1, w) away from the centre, lie within a turned outline."""
    if outline is None:
        return x * x + y * y <= radius * radius
    cosine, sine = _COSINES[turn], _COSINES[turn - 4]
    corners = [(a * cosine - b * sine, a * sine + b * cosine) for a, b in outline]
    # Corners are in units of 1 / (64 * 4096) radius: bring the pixels to the same units.
    x, y = x * _CORNER_UNIT, y * _CORNER_UNIT
    inside = np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        inside &= (x1 - x0) * (y - y0 * radius) - (y1 - y0) * (x - x0 * radius) >= 0
    return inside


def _average(image: np.ndarray) -> np.ndarray:
    return (sum(_subpixels(image)) // _SUPERSAMPLING**2).astype(np.uint8)


def _majority(classes: np.ndarray) -> np.ndarray:
    """The most frequent class of each block; the lowest one of several."""
    subpixels = _subpixels(classes.astype(np.uint8))
    counts = [sum((part == index).astype(np.uint8) for part in subpixels) for index in _CLASSES]
    return np.argmax(counts, axis=0).astype(np.uint8)


def _subpixels(scene: np.ndarray) -> list[np.ndarray]:
    """The supersampled scene as images of the final size, one for each place within a pixel."""
    offsets = range(_SUPERSAMPLING)
    return [scene[i::_SUPERSAMPLING, j::_SUPERSAMPLING] for i in offsets for j in offsets]


def _integer(rng, low: int, high: int) -> int:
    """A random integer in [low, high). int64 by name: the default is the platform's choice."""
    return int(rng.randint(low, high, dtype=np.int64))


def _integers(rng, low: int, high: int, shape) -> np.ndarray:
    return rng.randint(low, high, size=shape, dtype=np.int64)
