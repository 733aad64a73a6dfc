"""Actors drawn into pictures, anti-aliased by signed distances, all frames of a scene at once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.data.storyworld.attributes import (
    COLOURS,
    LIGHTS,
    PLACES,
    SECOND_COLOURS,
    Actor,
    Scene,
)
from m2dit_jax.data.storyworld.places import light_up, lit_places

RADIUS = 0.155  # half the width of a body, of the canvas; the unit of what follows
FEET = 1.3  # from a body's middle down to what it stands on
GROUND = 0.9  # height of what actors stand on, of the canvas
STANDING = GROUND - FEET * RADIUS  # height of the middle of a body that stands
INK = (44, 32, 52)
WHITE = (255, 255, 255)
_OUTLINE = 0.14
# How far parts reach from a body's middle: to the sides, up, down.
SIDE, ABOVE, BELOW = 1.25, 1.85, 1.4
# Middle of the eyes: height, and distance from the middle line.
_EYES = {"ball": (-0.25, 0.36), "box": (-0.3, 0.38), "cone": (0.12, 0.27), "ghost": (-0.25, 0.36)}
# Of the two ears: height and distance from the middle line. Of the hat: the height of its brim.
_EARS = {"ball": (-0.86, 0.62), "box": (-1.0, 0.62), "cone": (-0.55, 0.6), "ghost": (-0.86, 0.62)}
_BRIM = {"ball": -0.9, "box": -0.9, "cone": -0.78, "ghost": -0.9}
# Half the width and height of the face, which no pattern covers.
_FACE = {"ball": (0.78, 0.44), "box": (0.78, 0.44), "cone": (0.66, 0.44), "ghost": (0.78, 0.44)}
_GAZE = 0.26  # how far the eyes move to the side that they look to
STRIPE = 0.42  # width of a band of a pattern


@dataclass(frozen=True)
class Path:
    """Where an actor is in each frame: its middle, as fractions of the canvas, and where it looks.

    `facing` goes from -1 (left) to 1 (right); `stride` says how far the feet are apart, -1 to 1.
    """

    x: Float[np.ndarray, " F"]
    y: Float[np.ndarray, " F"]
    facing: Float[np.ndarray, " F"]
    stride: Float[np.ndarray, " F"]


def draw_scene(
    scene: Scene, paths: tuple[Path, ...], size: int
) -> UInt8[np.ndarray, "F {size} {size} 3"]:
    """A scene whose actors take these paths."""
    # Light is affine and a pixel's shares add up to 1: what is lit can be put together.
    light, place = LIGHTS.index(scene.light), PLACES.index(scene.place)
    picture = lit_places(size)[light, place, scene.arrangement]
    pictures = np.repeat(picture[None], len(paths[0].x), axis=0)
    for actor, path in zip(scene.actors, paths, strict=True):
        draw_actor(pictures, actor, path, scene.light)
    return np.rint(pictures).astype(np.uint8)


def draw_actor(
    pictures: Float[np.ndarray, "F S S 3"], actor: Actor, path: Path, light: str
) -> None:
    """Paints an actor into pictures; what lies beyond the canvas is left out."""
    rows, columns = window(path, pictures.shape[1])
    shares, clear = actor_layers(actor, path, rows, columns, pictures.shape[1])
    pixels = pictures[:, rows, columns]
    pixels *= clear[..., None]
    colours = layer_colours(actor, light)
    # Sums of products, channel by channel: quicker than a product with a matrix of 4 rows.
    for channel in range(3):
        plane = pixels[..., channel]
        for name, share in shares.items():
            plane += share * colours[name][channel]


def window(path: Path, size: int) -> tuple[slice, slice]:
    """The rows and columns that an actor may touch on its path."""
    return _span(path.y, ABOVE, BELOW, size), _span(path.x, SIDE, SIDE, size)


def _span(middles: Float[np.ndarray, " F"], before: float, after: float, size: int) -> slice:
    low = int(np.floor((middles.min() - before * RADIUS) * size))
    high = int(np.ceil((middles.max() + after * RADIUS) * size))
    return slice(min(max(low, 0), size), min(max(high, 0), size))


def _units(span: slice, middles: Float[np.ndarray, " F"], size: int) -> Float[np.ndarray, "F n"]:
    """Pixels' middles as seen from the middle of a body."""
    grid = (np.arange(span.start, span.stop) + 0.5) / size
    return ((grid - middles[:, None]) / RADIUS).astype(np.float32)


class _Layers:
    """What is seen of flat layers of a few colours, from the topmost one down."""

    def __init__(self, shape: tuple[int, ...], scale: float):
        self._scale, self._shape = scale, shape
        self.clear = np.ones(shape, np.float32)  # what is seen of all that lies below
        self.shares: dict[str, np.ndarray] = {}

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """The covered share of each pixel, from the signed distance to an edge."""
        return np.clip(0.5 - distance * np.float32(self._scale), 0, 1)

    def add(self, colour: str, alpha: np.ndarray) -> None:
        """One more layer below all others."""
        seen = self.clear * alpha
        self.clear = self.clear - seen
        there = self.shares.get(colour)
        self.shares[colour] = seen if there is None else there + seen


def actor_layers(
    actor: Actor,
    path: Path,
    rows: slice,
    columns: slice,
    size: int,
) -> tuple[dict[str, Float[np.ndarray, "F h w"]], Float[np.ndarray, "F h w"]]:
    """The share of each pixel that has an actor's ink, white, first and second colour.

    And the share that is seen of what lies behind.
    """
    u = _units(columns, path.x, size)[:, None, :]
    v = _units(rows, path.y, size)[:, :, None]
    layers = _Layers((len(u), v.shape[1], u.shape[2]), RADIUS * size)
    cover, add = layers.cover, layers.add
    height, apart = _EYES[actor.body]
    gaze = path.facing.astype(np.float32)[:, None, None]
    eyes = np.abs(u - _GAZE * gaze) - apart
    pupils = np.abs(u - (_GAZE + 0.11) * gaze) - apart
    add("ink", cover(_ellipse(pupils, v - height - 0.03, 0.15, 0.2)))
    add("white", cover(_ellipse(eyes, v - height, 0.28, 0.34)))
    if actor.part == "hat":
        brim = _BRIM[actor.body]
        add("white", cover(_rectangle(u, v - (brim - 0.24), 0.46, 0.1)))
        crown = _rectangle(u, v - (brim - 0.4), 0.46, 0.42)
        add("ink", cover(np.minimum(crown, _rectangle(u, v - brim, 0.84, 0.12))))
    body = body_distance(actor.body, u, v)
    inside = cover(body)
    if actor.pattern != "plain":
        face = _ellipse(u - 0.6 * _GAZE * gaze, v - height, *_FACE[actor.body])
        where = np.maximum(pattern_distance(actor.pattern, u, v), -face)
        add("second", inside * cover(where))
    add("first", inside)
    add("ink", cover(body - _OUTLINE))
    if actor.part == "ears":
        up, apart = _EARS[actor.body]
        ear = _ellipse(np.abs(u) - apart, v - up, 0.36, 0.42)
        add("first", cover(ear))
        add("ink", cover(ear - _OUTLINE))
    if actor.body != "ghost":
        swing = 0.24 * path.stride.astype(np.float32)[:, None, None]
        feet = np.minimum(abs(u - 0.4 - swing), abs(u + 0.4 + swing))
        add("ink", cover(_ellipse(feet, v - 1.1, 0.26, 0.22)))
    return layers.shares, layers.clear


def layer_colours(actor: Actor, light: str) -> dict[str, Float[np.ndarray, "3"]]:
    """The colours, 0 to 255, of the layers of an actor in a light."""
    second = SECOND_COLOURS[actor.second] if actor.second else (0, 0, 0)
    by_day = {"ink": INK, "white": WHITE, "first": COLOURS[actor.colour], "second": second}
    return {name: light_up(np.array(rgb, np.float32), light) for name, rgb in by_day.items()}


def body_distance(
    body: str, u: Float[np.ndarray, "..."], v: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Signed distance to the edge of a body, negative inside."""
    u = np.abs(u)
    if body == "ball":
        return np.sqrt(u * u + v * v) - 1.0
    if body == "box":
        return _rectangle(u, v, 0.92 - 0.2, 0.94 - 0.2) - 0.2
    if body == "cone":
        return np.maximum((u * 1.9 - (v + 1.2)) / 2.15, v - 1.0)
    if body == "ghost":
        dome = np.sqrt(u * u + np.minimum(v + 0.02, 0) ** 2) - 0.96
        hem = v - 1.1 - 0.16 * np.cos(2 * np.pi * 1.5 * u)
        return np.maximum(dome, hem)
    raise ValueError(f"unknown body {body!r}")


def pattern_distance(
    pattern: str, u: Float[np.ndarray, "..."], v: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Signed distance to the edge of what has the pattern's second colour."""
    if pattern == "rows":
        return _bands(v - 0.6)
    if pattern == "columns":
        return _bands(u)
    if pattern == "diagonal":
        return _bands((u + v) * np.sqrt(0.5).astype(np.float32))
    if pattern == "checks":
        across, down = _bands(u + STRIPE / 2), _bands(v + STRIPE / 2 - 0.6)
        return np.maximum(np.minimum(across, down), -np.maximum(across, down))
    if pattern == "dots":
        pitch = 0.7
        off = [x - pitch * np.rint(x / pitch) for x in (u, v - 0.58)]
        return np.sqrt(off[0] ** 2 + off[1] ** 2) - 0.21
    if pattern == "half":
        return 0.35 - v + 0 * u
    raise ValueError(f"unknown pattern {pattern!r}")


def _bands(x: np.ndarray) -> np.ndarray:
    """Distance to bands of width STRIPE, as far from each other, one of them around 0."""
    pitch = 2 * STRIPE
    return np.abs(x - pitch * np.rint(x / pitch)) - STRIPE / 2


def _ellipse(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    return (np.sqrt((u / half_u) ** 2 + (v / half_v) ** 2) - 1) * min(half_u, half_v)


def _rectangle(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    du, dv = np.abs(u) - half_u, np.abs(v) - half_v
    outside = np.sqrt(np.maximum(du, 0) ** 2 + np.maximum(dv, 0) ** 2)
    return outside + np.minimum(np.maximum(du, dv), 0)
