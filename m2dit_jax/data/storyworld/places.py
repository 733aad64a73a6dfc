"""The places: sky, ground and things in three slots, drawn once for each size and kept."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from m2dit_jax.data.storyworld.attributes import ARRANGEMENTS, LIGHTS, PLACES

Colour = tuple[int, int, int]
Plane = Float[np.ndarray, "H W"]

HORIZON = 0.6
SLOTS = (0.19, 0.5, 0.81)  # middles, as fractions of the width
_SKY_THING = 0.17  # height of its middle
_FINER = 8  # points on a side of a pixel that are averaged

# Each light multiplies a colour and mixes the outcome with another, by a share.
_LIGHTS: dict[str, tuple[tuple[float, float, float], Colour, float]] = {
    "day": ((1.0, 1.0, 1.0), (0, 0, 0), 0.0),
    "dusk": ((1.0, 0.78, 0.76), (160, 50, 110), 0.18),
    "morning": ((1.0, 0.94, 0.80), (255, 214, 130), 0.30),
    "night": ((0.54, 0.60, 0.88), (30, 40, 110), 0.16),
    "fog": ((0.92, 0.94, 0.96), (206, 210, 214), 0.44),
}


def light_up(picture: Float[np.ndarray, "*any 3"], light: str) -> Float[np.ndarray, "*any 3"]:
    """The colours of a picture (0 to 255, by day) in another light."""
    gain, tint, share = _LIGHTS[light]
    return picture * ((1 - share) * np.array(gain, np.float32)) + share * np.array(tint, np.float32)


def contrast(light: str) -> float:
    """How far apart colours are in a light, by day 1."""
    gain, _, share = _LIGHTS[light]
    return (1 - share) * sum(gain) / 3


@lru_cache(maxsize=8)
def draw_places(size: int) -> Float[np.ndarray, "places arrangements {size} {size} 3"]:
    """All places in all arrangements, by day; values 0 to 255, read-only."""
    pictures = np.stack(
        [[_draw(place, arrangement, size) for arrangement in ARRANGEMENTS] for place in PLACES]
    )
    pictures.flags.writeable = False
    return pictures


@lru_cache(maxsize=4)
def lit_places(size: int) -> Float[np.ndarray, "lights places arrangements {size} {size} 3"]:
    """All places in all arrangements and lights; read-only."""
    pictures = np.stack([light_up(draw_places(size), light) for light in LIGHTS])
    pictures.flags.writeable = False
    return pictures


class _Canvas:
    """A picture on a fine grid, x and y from 0 to 1, on which flat areas are painted."""

    def __init__(self, size: int):
        grid = (np.arange(size * _FINER, dtype=np.float32) + 0.5) / (size * _FINER)
        self.x, self.y = grid[None, :], grid[:, None]
        self.pixels = np.zeros((size * _FINER, size * _FINER, 3), np.float32)
        self._size = size

    def paint(self, where: np.ndarray, colour: Colour) -> None:
        """Fills an area."""
        self.pixels[np.broadcast_to(where, self.pixels.shape[:2])] = colour

    def fade(self, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
        """Fills the rows between two heights, from one colour to another."""
        rows = (self.y[:, 0] >= top) & (self.y[:, 0] < bottom)
        share = ((self.y[rows, 0] - top) / (bottom - top))[:, None, None]
        self.pixels[rows] = (1 - share) * np.array(upper) + share * np.array(lower)

    def disc(self, x: float, y: float, radius: float, colour: Colour, flat: float = 1.0) -> None:
        """A disc, or an ellipse whose height is `flat` times its width."""
        self.paint((self.x - x) ** 2 + ((self.y - y) / flat) ** 2 <= radius**2, colour)

    def box(self, left: float, right: float, top: float, bottom: float, colour: Colour) -> None:
        """A rectangle."""
        inside = (self.x >= left) & (self.x < right) & (self.y >= top) & (self.y < bottom)
        self.paint(inside, colour)

    def peak(
        self, x: float, half: float, top: float, bottom: float, colour: Colour, lean: float = 0.0
    ) -> None:
        """A triangle that stands on its base; `lean` moves its tip to the right."""
        down = (self.y - top) / (bottom - top)
        middle = x + lean * (1 - down)
        self.paint((down >= 0) & (down < 1) & (abs(self.x - middle) <= half * down), colour)

    def hills(self, level: float, height: float, waves: float, phase: float, colour: Colour):
        """Everything below a wavy line."""
        line = level - height * np.sin(2 * np.pi * (waves * self.x + phase))
        self.paint(self.y >= line, colour)

    def averaged(self) -> Float[np.ndarray, "size size 3"]:
        """The picture in its own pixels."""
        shape = (self._size, _FINER, self._size, _FINER, 3)
        return self.pixels.reshape(shape).mean((1, 3))


def _draw(place: str, arrangement: tuple[int, int, int], size: int) -> np.ndarray:
    canvas = _Canvas(size)
    ground, large, small, in_sky = _PLACES[place]
    ground(canvas)
    in_sky(canvas, SLOTS[arrangement[2]])
    large(canvas, SLOTS[arrangement[0]])
    small(canvas, SLOTS[arrangement[1]])
    return canvas.averaged()


# --- what they look like


def _sea(c: _Canvas) -> None:
    c.fade(0.0, HORIZON, (116, 196, 240), (206, 236, 248))
    c.fade(HORIZON, 1.0, (36, 132, 190), (60, 168, 206))
    for level, phase in ((0.66, 0.0), (0.73, 0.4)):
        line = level - 0.008 * np.sin(2 * np.pi * (3 * c.x + phase))
        c.paint(abs(c.y - line) < 0.009, (150, 214, 232))
    c.hills(0.815, 0.012, 1.5, 0.1, (232, 244, 240))
    c.hills(0.835, 0.012, 1.5, 0.1, (240, 218, 164))


def _sailboat(c: _Canvas, x: float) -> None:
    c.box(x - 0.012, x + 0.012, 0.22, 0.6, (110, 74, 52))
    c.paint(
        (c.x > x + 0.012) & (c.y > 0.24) & (c.y < 0.55) & (c.x - x < (c.y - 0.2) * 0.5),
        (255, 250, 240),
    )
    c.paint(
        (c.x < x - 0.012) & (c.y > 0.3) & (c.y < 0.55) & (x - c.x < (c.y - 0.27) * 0.5),
        (240, 120, 96),
    )
    inside = (c.y >= 0.57) & (c.y < 0.66) & (abs(c.x - x) < 0.17 - 0.6 * (c.y - 0.57))
    c.paint(inside, (140, 62, 54))


def _lighthouse(c: _Canvas, x: float) -> None:
    c.disc(x, 0.63, 0.11, (112, 108, 112), 0.45)
    c.box(x - 0.045, x + 0.045, 0.36, 0.6, (250, 246, 240))
    c.box(x - 0.045, x + 0.045, 0.42, 0.49, (214, 62, 62))
    c.peak(x, 0.06, 0.29, 0.36, (90, 60, 74))


def _sun(c: _Canvas, x: float) -> None:
    c.disc(x, _SKY_THING, 0.115, (255, 240, 176))
    c.disc(x, _SKY_THING, 0.085, (255, 214, 70))


def _cloud(c: _Canvas, x: float) -> None:
    for dx, dy, radius in ((-0.085, 0.02, 0.06), (0.0, -0.02, 0.085), (0.09, 0.02, 0.06)):
        c.disc(x + dx, _SKY_THING + dy, radius, (255, 255, 255))
    c.box(x - 0.1, x + 0.1, _SKY_THING, _SKY_THING + 0.08, (255, 255, 255))


def _forest(c: _Canvas) -> None:
    c.fade(0.0, HORIZON, (160, 214, 196), (220, 240, 206))
    c.hills(0.5, 0.03, 3.0, 0.2, (110, 176, 132))
    c.hills(0.56, 0.02, 2.0, 0.6, (78, 146, 104))
    c.fade(HORIZON + 0.02, 1.0, (92, 122, 58), (128, 150, 72))
    c.hills(0.84, 0.012, 2.0, 0.3, (178, 152, 104))


def _tree(c: _Canvas, x: float) -> None:
    c.box(x - 0.035, x + 0.035, 0.35, 0.68, (104, 68, 46))
    for dx, dy, radius in ((-0.08, 0.31, 0.1), (0.08, 0.31, 0.1), (0.0, 0.2, 0.125)):
        c.disc(x + dx, dy, radius, (26, 94, 60))
    c.disc(x - 0.03, 0.18, 0.07, (50, 124, 76))


def _mushroom(c: _Canvas, x: float) -> None:
    c.box(x - 0.04, x + 0.04, 0.5, 0.68, (246, 234, 212))
    c.paint(((c.x - x) ** 2 + ((c.y - 0.52) * 0.9) ** 2 <= 0.125**2) & (c.y < 0.54), (206, 56, 66))
    for dx, dy in ((-0.06, 0.49), (0.055, 0.48), (0.0, 0.43)):
        c.disc(x + dx, dy, 0.023, (255, 240, 232))


def _city(c: _Canvas) -> None:
    c.fade(0.0, HORIZON, (88, 96, 160), (236, 170, 160))
    for left, right, top in (
        (0.0, 0.13, 0.5),
        (0.13, 0.3, 0.43),
        (0.3, 0.42, 0.52),
        (0.42, 0.6, 0.46),
        (0.6, 0.72, 0.53),
        (0.72, 0.88, 0.44),
        (0.88, 1.0, 0.5),
    ):
        c.box(left, right, top, HORIZON + 0.1, (142, 120, 160))
    c.fade(HORIZON + 0.06, 1.0, (94, 96, 116), (76, 78, 98))
    c.box(0.0, 1.0, 0.66, 0.72, (172, 170, 178))
    for left in (0.04, 0.37, 0.7):
        c.box(left, left + 0.24, 0.925, 0.95, (232, 226, 200))


def _tower(c: _Canvas, x: float) -> None:
    c.box(x - 0.13, x + 0.13, 0.1, 0.68, (44, 50, 88))
    c.box(x - 0.012, x + 0.012, 0.02, 0.1, (44, 50, 88))
    for row in range(6):
        for column in range(3):
            left, top = x - 0.1 + 0.075 * column, 0.135 + 0.085 * row
            lit = (row * 2 + column) % 5 != 1
            c.box(left, left + 0.05, top, top + 0.05, (255, 220, 110) if lit else (70, 80, 124))


def _lamp(c: _Canvas, x: float) -> None:
    c.box(x - 0.018, x + 0.018, 0.36, 0.68, (48, 48, 62))
    c.box(x - 0.05, x + 0.05, 0.66, 0.69, (48, 48, 62))
    c.disc(x, 0.35, 0.1, (250, 200, 140))
    c.disc(x, 0.35, 0.065, (255, 246, 200))


def _moon(c: _Canvas, x: float) -> None:
    away = (c.x - x - 0.05) ** 2 + (c.y - _SKY_THING + 0.03) ** 2 > 0.085**2
    c.paint(((c.x - x) ** 2 + (c.y - _SKY_THING) ** 2 <= 0.1**2) & away, (255, 248, 214))


def _desert(c: _Canvas) -> None:
    c.fade(0.0, HORIZON, (246, 164, 110), (255, 226, 168))
    c.fade(HORIZON, 1.0, (240, 190, 122), (240, 190, 122))
    c.hills(0.585, 0.05, 1.0, 0.05, (222, 150, 92))
    c.hills(0.66, 0.03, 1.0, 0.45, (240, 190, 122))
    c.hills(0.8, 0.02, 0.8, 0.2, (248, 212, 150))


def _cactus(c: _Canvas, x: float) -> None:
    green = (34, 122, 92)
    c.box(x - 0.04, x + 0.04, 0.22, 0.7, green)
    c.disc(x, 0.22, 0.04, green)
    c.box(x - 0.13, x, 0.42, 0.48, green)
    c.box(x - 0.13, x - 0.075, 0.32, 0.48, green)
    c.box(x, x + 0.13, 0.36, 0.42, green)
    c.box(x + 0.075, x + 0.13, 0.27, 0.42, green)
    c.disc(x, 0.17, 0.03, (240, 90, 140))


def _pyramid(c: _Canvas, x: float) -> None:
    c.peak(x, 0.17, 0.38, 0.66, (182, 112, 66))
    c.paint(
        (c.y >= 0.38) & (c.y < 0.66) & (c.x > x) & (c.x - x <= 0.17 * (c.y - 0.38) / 0.28),
        (140, 82, 56),
    )


def _red_sun(c: _Canvas, x: float) -> None:
    c.disc(x, _SKY_THING, 0.115, (255, 214, 150))
    c.disc(x, _SKY_THING, 0.09, (250, 96, 60))


def _snow(c: _Canvas) -> None:
    c.fade(0.0, HORIZON, (132, 160, 204), (212, 222, 238))
    c.peak(0.28, 0.4, 0.36, 0.64, (164, 178, 212))
    c.peak(0.8, 0.36, 0.4, 0.64, (176, 188, 220))
    c.hills(0.62, 0.02, 1.2, 0.3, (232, 238, 248))
    c.hills(0.8, 0.015, 0.9, 0.75, (250, 252, 255))


def _fir(c: _Canvas, x: float) -> None:
    c.box(x - 0.025, x + 0.025, 0.55, 0.7, (92, 64, 52))
    for half, top, bottom in ((0.15, 0.36, 0.63), (0.12, 0.24, 0.47), (0.09, 0.12, 0.32)):
        c.peak(x, half, top, bottom, (28, 84, 82))
    c.peak(x, 0.045, 0.12, 0.21, (246, 250, 255))


def _snowman(c: _Canvas, x: float) -> None:
    c.disc(x, 0.6, 0.112, (150, 166, 200))
    c.disc(x, 0.43, 0.083, (150, 166, 200))
    c.disc(x, 0.6, 0.1, (255, 255, 255))
    c.disc(x, 0.43, 0.07, (255, 255, 255))
    c.box(x - 0.055, x + 0.055, 0.3, 0.37, (60, 50, 70))
    c.box(x - 0.08, x + 0.08, 0.36, 0.385, (60, 50, 70))
    c.peak(x, 0.03, 0.41, 0.45, (240, 130, 50))


def _meadow(c: _Canvas) -> None:
    c.fade(0.0, HORIZON, (96, 170, 244), (196, 226, 252))
    c.hills(0.56, 0.06, 0.9, 0.1, (124, 200, 112))
    c.hills(0.64, 0.03, 1.1, 0.5, (150, 214, 104))
    c.hills(0.82, 0.015, 0.8, 0.2, (186, 228, 124))


def _house(c: _Canvas, x: float) -> None:
    c.box(x - 0.13, x + 0.13, 0.4, 0.68, (252, 236, 208))
    c.box(x + 0.06, x + 0.1, 0.2, 0.34, (146, 84, 70))
    c.peak(x, 0.18, 0.2, 0.41, (196, 74, 62))
    c.box(x - 0.09, x - 0.02, 0.46, 0.54, (96, 146, 190))
    c.box(x + 0.02, x + 0.09, 0.46, 0.68, (134, 88, 62))


def _flower(c: _Canvas, x: float) -> None:
    c.box(x - 0.014, x + 0.014, 0.42, 0.68, (44, 128, 68))
    c.disc(x + 0.05, 0.6, 0.045, (44, 128, 68), 0.5)
    for turn in range(5):
        angle = 2 * np.pi * turn / 5 - np.pi / 2
        c.disc(x + 0.06 * np.cos(angle), 0.4 + 0.06 * np.sin(angle), 0.045, (250, 120, 176))
    c.disc(x, 0.4, 0.04, (255, 226, 90))


_Ground = Callable[[_Canvas], None]
_Thing = Callable[[_Canvas, float], None]
# Ground and sky, the large thing, the small one, and that in the sky.
_PLACES: dict[str, tuple[_Ground, _Thing, _Thing, _Thing]] = {
    "sea": (_sea, _sailboat, _lighthouse, _sun),
    "forest": (_forest, _tree, _mushroom, _cloud),
    "city": (_city, _tower, _lamp, _moon),
    "desert": (_desert, _cactus, _pyramid, _red_sun),
    "snow": (_snow, _fir, _snowman, _cloud),
    "meadow": (_meadow, _house, _flower, _sun),
}
