"""Which actor is nearest to what is seen at a place: least squares over all that there can be."""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from m2dit_jax.data.storyworld.attributes import (
    BODIES,
    COLOURS,
    PARTS,
    PATTERNS,
    SECOND_COLOURS,
    Actor,
)
from m2dit_jax.data.storyworld.drawing import RADIUS, Path, actor_layers, layer_colours
from m2dit_jax.data.storyworld.places import contrast

_LAYERS = ("ink", "white", "first", "second")
_PHASES = 4  # places within a pixel at which actors are drawn, along each axis
# What is compared: rows and columns around a body's middle, in units of RADIUS, without the feet.
_ABOVE, _BELOW, _SIDE = 1.9, 1.05, 1.35
# Where eyes move, which does not count: rows, and columns around the middle line.
_FACE, _FACE_SIDE = (-0.72, 0.58), 0.85

# Mean squares of colours by day, for each body, part, pattern, colour and second colour.
Errors = Float[np.ndarray, "bodies parts patterns colours seconds"]


class _Bank(NamedTuple):
    """All bodies, parts and patterns at each phase, on P pixels of a window of H rows."""

    shares: Float[np.ndarray, "phases bodies_parts patterns layers P"]
    clear: Float[np.ndarray, "phases bodies_parts P"]
    gram: Float[np.ndarray, "phases bodies_parts patterns layers layers"]
    counted: Bool[np.ndarray, "phases P"]
    above: int
    side: int
    height: int
    width: int


@lru_cache(maxsize=4)
def _bank(size: int) -> _Bank:
    above, below, side = (int(np.ceil(r * RADIUS * size)) for r in (_ABOVE, _BELOW, _SIDE))
    height, width = above + below + 1, 2 * side + 1
    shares, clear, counted = [], [], []
    for down, right in product(range(_PHASES), repeat=2):
        middle = (above + (down + 0.5) / _PHASES, side + (right + 0.5) / _PHASES)
        y, x = np.array([middle[0] / size]), np.array([middle[1] / size])
        v = (np.arange(height) + 0.5 - middle[0]) / (RADIUS * size)
        u = (np.arange(width) + 0.5 - middle[1]) / (RADIUS * size)
        face = ((v > _FACE[0]) & (v < _FACE[1]))[:, None] & (np.abs(u) < _FACE_SIDE)
        counts = (~face & (v > -_ABOVE)[:, None] & (v < _BELOW)[:, None]).ravel()
        counted.append(counts)
        path = Path(x, y, np.zeros(1), np.zeros(1))
        for body, part in product(BODIES, PARTS):
            layers = [
                actor_layers(
                    Actor(body, "red", part, pattern, "dark"),
                    path,
                    slice(0, height),
                    slice(0, width),
                    size,
                )
                for pattern in PATTERNS
            ]
            for found, seen in layers:
                shares.append([found.get(n, 0 * seen).ravel() * counts for n in _LAYERS])
            clear.append(layers[0][1].ravel() * counts)  # whatever the pattern is
    bodies = len(BODIES) * len(PARTS)
    all_shares = np.array(shares, np.float32).reshape(
        _PHASES**2, bodies, len(PATTERNS), len(_LAYERS), -1
    )
    return _Bank(
        all_shares,
        np.array(clear, np.float32).reshape(_PHASES**2, bodies, -1),
        np.einsum("fsplx,fspmx->fsplm", all_shares, all_shares),
        np.array(counted),
        above,
        side,
        height,
        width,
    )


def sprite_errors(
    pixels: Float[np.ndarray, "F S S 3"],
    behind: Float[np.ndarray, "S S 3"],
    light: str,
    path: Path,
) -> Errors:
    """How far the pixels along a path are from each actor in front of a place.

    Of a plain actor the second of the second colours is infinitely far.
    """
    size = len(behind)
    bank = _bank(size)
    margin = max(bank.height, bank.width)
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    canvas = np.pad(np.concatenate([pixels, behind[None]]), around, mode="edge")
    rows, columns = path.y * size, path.x * size
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    phase = np.floor((rows - top) * _PHASES) * _PHASES + np.floor((columns - left) * _PHASES)
    phase = phase.astype(int)
    colours = _colours(light)
    total, count = 0.0, 0
    for number in np.unique(phase):
        frames = np.flatnonzero(phase == number)
        counts = bank.counted[number]
        windows = np.zeros((2, len(counts), 3), np.float32)
        for frame in frames:
            row, column = top[frame] - bank.above + margin, left[frame] - bank.side + margin
            where = slice(row, row + bank.height), slice(column, column + bank.width)
            for kind, of in enumerate((frame, -1)):
                windows[kind] += canvas[of][where].reshape(-1, 3)
        seen, there = windows / len(frames) * counts[:, None]
        off = seen - bank.clear[number][..., None] * there  # [bodies_parts P 3]
        shares = bank.shares[number]  # [bodies_parts patterns layers P]
        flat = shares.reshape(len(shares), -1, shares.shape[-1])
        along = (flat @ off).reshape(*shares.shape[:3], 3)
        square = np.einsum("sxc,sxc->s", off, off)[:, None, None, None]
        linear = np.einsum("splc,kjlc->spkj", along, colours)
        quadratic = np.einsum(
            "splm,kjlm->spkj", bank.gram[number], np.einsum("kjlc,kjmc->kjlm", colours, colours)
        )
        total = total + len(frames) * (square - 2 * linear + quadratic)
        count += len(frames) * int(counts.sum())
    errors = np.asarray(total) / (3 * count) / contrast(light) ** 2
    errors[:, PATTERNS.index("plain"), :, 1:] = np.inf
    return errors.reshape(len(BODIES), len(PARTS), *errors.shape[1:])


def nearest_actor(errors: Errors) -> Actor:
    """The actor of least error."""
    body, part, pattern, colour, second = np.unravel_index(errors.argmin(), errors.shape)
    plain = PATTERNS[pattern] == "plain"
    return Actor(
        BODIES[body],
        list(COLOURS)[colour],
        PARTS[part],
        PATTERNS[pattern],
        "" if plain else list(SECOND_COLOURS)[second],
    )


@lru_cache(maxsize=16)
def _colours(light: str) -> Float[np.ndarray, "colours seconds layers 3"]:
    return np.array(
        [
            [
                [layer_colours(Actor("ball", c, second=s), light)[name] for name in _LAYERS]
                for s in SECOND_COLOURS
            ]
            for c in COLOURS
        ],
        np.float32,
    )
