"""The scene that comes nearest to pixels: least squares over everything that can be drawn.

Nothing is learned. First the place with its light and arrangement, then where actors stand in each
frame, then which actor each is, then its path in parts of a pixel.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.data.storyworld.attributes import LIGHTS, PLACES, Actor
from m2dit_jax.data.storyworld.drawing import (
    GROUND,
    RADIUS,
    STANDING,
    Path,
    body_distance,
    draw_actor,
    window,
)
from m2dit_jax.data.storyworld.paths import APART, JUMP
from m2dit_jax.data.storyworld.places import contrast, lit_places
from m2dit_jax.data.storyworld.sprites import Errors, nearest_actor, sprite_errors

Frames = Float[np.ndarray, "F S S 3"]

_FAR = 45.0  # distance of colours, by day, beyond which errors of places do not grow
_SEEN = 42.0  # distance from the place, by day, at which an actor covers a pixel
_LEAST_BODY = 0.5  # share of a second actor's body that must be seen
_POOR = 400.0  # error of a start, a mean square of colours by day, that is not good enough
_FACINGS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_SMALL = 0.02  # differences for slopes, of a body's half width, of facing and stride


@dataclass(frozen=True)
class FittedPlace:
    """The background of a scene; errors are those of all candidates, of 1 at most."""

    place: str
    arrangement: int
    light: str
    errors: Float[np.ndarray, "lights places arrangements"]


@dataclass(frozen=True)
class FittedActor:
    """An actor with its path; `errors` are those of all that there can be."""

    actor: Actor
    path: Path
    errors: Errors


@dataclass(frozen=True)
class FittedScene:
    """The nearest scene; actors from left to right."""

    background: FittedPlace
    actors: tuple[FittedActor, ...]

    def render(self, frames: int, size: int) -> UInt8[np.ndarray, "F S S 3"]:
        """The scene drawn as its source would have drawn it."""
        pictures = np.repeat(picture_of(self.background, size)[None], frames, axis=0)
        for fitted in self.actors:
            draw_actor(pictures, fitted.actor, fitted.path, self.background.light)
        return np.rint(pictures).astype(np.uint8)


def fit_scene(video: UInt8[np.ndarray, "F S S 3"], refinements: int = 2) -> FittedScene:
    """The scene nearest to the pixels; more refinements find its paths more exactly."""
    pixels = video.astype(np.float32)
    background = fit_place(pixels)
    behind = picture_of(background, pixels.shape[1])
    actors = tuple(
        _fit_actor(pixels, behind, background.light, path, refinements)
        for path in find_actors(pixels, behind, background.light)
    )
    return FittedScene(background, actors)


def picture_of(place: FittedPlace, size: int) -> Float[np.ndarray, "S S 3"]:
    """The place without actors."""
    light, number = LIGHTS.index(place.light), PLACES.index(place.place)
    return lit_places(size)[light, number, place.arrangement]


def fit_place(pixels: Frames) -> FittedPlace:
    """The place, arrangement and light of least error, which is bounded for each pixel.

    So what actors cover counts as much whatever they look like.
    """
    middle = np.median(pixels, axis=0)
    places = lit_places(len(middle))
    distance = ((places - middle) ** 2).sum(-1)
    far = np.array([contrast(light) * _FAR for light in LIGHTS], np.float32) ** 2
    far = far[:, None, None, None, None]
    errors = (np.minimum(distance, far) / far).mean((-1, -2))
    light, place, arrangement = np.unravel_index(errors.argmin(), errors.shape)
    return FittedPlace(PLACES[place], int(arrangement), LIGHTS[light], errors)


# --- where actors are


@lru_cache(maxsize=4)
def _stands(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Places x and y to look at, half a pixel apart, the filter there, and its greatest value."""
    step = 0.5 / size
    x = np.arange(RADIUS, 1 - RADIUS + step / 2, step)
    y = np.arange(STANDING - JUMP - 3 * step, STANDING + 3.5 * step, step)
    grid = (np.arange(size) + 0.5) / size
    u = (grid - x[:, None]) / RADIUS
    v = (grid - y[:, None]) / RADIUS
    u, v = u[None, :, None, :], v[:, None, :, None]
    inside = (body_distance("cone", u, v) < 0.1) | (np.hypot(u, v) < 0.75)
    # To its sides and below it there is nothing; above it may be a hat.
    around = (np.maximum(np.abs(u), np.abs(v)) < 1.6) & ~(np.maximum(np.abs(u), -v) < 1.25)
    around &= v > -1.25
    below = (v > 1.45) & (v < 2.0) & (np.abs(u) < 1)
    weights = (
        inside / inside.sum((2, 3), keepdims=True)
        - 0.5 * (around / np.maximum(around.sum((2, 3), keepdims=True), 1))
        - 0.5 * below / np.maximum(below.sum((2, 3), keepdims=True), 1)
    )
    flat = weights.reshape(len(y) * len(x), -1).astype(np.float32)
    return x, y, np.ascontiguousarray(flat.T), 1.0


def find_actors(pixels: Frames, behind: Float[np.ndarray, "S S 3"], light: str) -> list[Path]:
    """Rough paths of one or two actors, from left to right; none where nothing is to be seen."""
    frames, size = pixels.shape[:2]
    x, y, filters, _ = _stands(size)
    distance = np.sqrt(((pixels - behind) ** 2).sum(-1))
    noise = np.median(distance)  # that of the place, most of which is never covered
    covered = np.clip((distance - noise) / (_SEEN * contrast(light)), 0, 1)
    response = (covered.reshape(frames, -1) @ filters).reshape(frames, len(y), len(x))
    by_x, best_y = response.max(1), response.argmax(1)
    first = by_x.argmax(1)
    if np.median(by_x.max(1)) < _LEAST_BODY:
        return []
    apart = np.abs(np.arange(len(x))[None] - first[:, None]) * (x[1] - x[0])
    others = np.where(apart > 1.5 * APART, by_x, -1)
    second = others.argmax(1)
    found = [first]
    if np.median(others.max(1)) >= _LEAST_BODY:
        found = [np.minimum(first, second), np.maximum(first, second)]
    rows = np.arange(frames)
    return [_smooth(x[columns], y[best_y[rows, columns]]) for columns in found]


def _smooth(x: Float[np.ndarray, " F"], y: Float[np.ndarray, " F"]) -> Path:
    """The nearest path of even speed that stands or jumps: a start that is no frame's own error."""
    time = np.linspace(-0.5, 0.5, len(x))
    line = x.mean() + time * (time @ (x - x.mean())) / (time @ time)
    jump = JUMP * (1 - 4 * time**2)
    height = (STANDING - y) @ jump / (jump @ jump)
    return Path(line, STANDING - jump * (height > 0.35), 0 * x, 0 * x)


# --- which actors they are


def _fit_actor(
    pixels: Frames, behind: np.ndarray, light: str, path: Path, refinements: int
) -> FittedActor:
    path, actor = _start(pixels, behind, light, path)
    path = _look(pixels, behind, light, actor, path)
    path = _refine(pixels, behind, light, actor, path, 2)
    errors = sprite_errors(pixels, behind, light, path)
    actor = nearest_actor(errors)
    path = _refine(pixels, behind, light, actor, path, refinements)
    return FittedActor(actor, path, errors)


def _start(pixels: Frames, behind: np.ndarray, light: str, path: Path) -> tuple[Path, Actor]:
    """The path or, where no actor fits well on it, the best of some beside it; and the actor."""
    found = [(path, sprite_errors(pixels, behind, light, path))]
    if found[0][1].min() > _POOR:
        pixel = 1 / len(behind)
        for dx, dy in product((-0.7 * pixel, 0, 0.7 * pixel), (-0.7 * pixel, 0, 0.7 * pixel)):
            moved = replace(path, x=path.x + dx, y=path.y + dy)
            found.append((moved, sprite_errors(pixels, behind, light, moved)))
    best, errors = min(found, key=lambda each: each[1].min())
    return best, nearest_actor(errors)


# --- their paths in parts of a pixel


def _drawn(pixels, behind, light, actor, path, span) -> tuple[np.ndarray, np.ndarray]:
    """What the drawing leaves of the pixels in a window, and its square of each frame."""
    pictures = np.repeat(behind[None], len(pixels), axis=0)
    draw_actor(pictures, actor, path, light)
    left = pixels[:, span[0], span[1]] - pictures[:, span[0], span[1]]
    return left, np.einsum("fhwc,fhwc->f", left, left)


def _look(pixels: Frames, behind: np.ndarray, light: str, actor: Actor, path: Path) -> Path:
    """The path with the best of a few directions of looking."""
    span = window(path, len(behind))
    tried = [
        _drawn(pixels, behind, light, actor, replace(path, facing=0 * path.x + facing), span)[1]
        for facing in _FACINGS
    ]
    return replace(path, facing=np.array(_FACINGS)[np.argmin(tried, axis=0)])


def _refine(
    pixels: Frames, behind: np.ndarray, light: str, actor: Actor, path: Path, steps: int
) -> Path:
    """Steps of Gauss and Newton over place, facing and stride of each frame, where they help."""
    size = len(behind)
    units = np.array([_SMALL * RADIUS, _SMALL * RADIUS, _SMALL, _SMALL])
    low = np.array([0, STANDING - 2 * JUMP, -1.2, -1.2])[:, None]
    high = np.array([1, GROUND, 1.2, 1.2])[:, None]
    most = np.array([0.4 * RADIUS, 0.4 * RADIUS, 0.6, 0.6])[:, None]
    values = np.stack([path.x, path.y, path.facing, path.stride])
    for _ in range(steps):
        span = window(Path(*values), size)
        left, error = _drawn(pixels, behind, light, actor, Path(*values), span)
        slopes = []
        for number, unit in enumerate(units):
            moved = values.copy()
            moved[number] += unit
            there, _ = _drawn(pixels, behind, light, actor, Path(*moved), span)
            slopes.append(left - there)
        slope = np.stack(slopes).reshape(4, len(pixels), -1)
        normal = np.einsum("afp,bfp->fab", slope, slope)
        normal += np.eye(4) * (1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-6)
        along = np.einsum("afp,fp->fa", slope, left.reshape(len(pixels), -1))
        step = np.linalg.solve(normal, along[..., None])[..., 0].T * units[:, None]
        tried = np.clip(values + np.clip(step, -most, most), low, high)
        _, error_there = _drawn(pixels, behind, light, actor, Path(*tried), span)
        values = np.where(error_there < error, tried, values)
    return Path(*values)
