"""The ideal scene that comes nearest to a scene's pixels: what `shapes` could have drawn there.

Least squares, nothing learned. Unlike `oracle`, which says what it cannot recognise, this always
finds a scene, so that pictures of any quality can be held against one.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from m2dit_jax.data.shapes import BACKGROUNDS, COLOURS, REACH, SHAPES, draw_coverage

_BACKGROUNDS = np.array(list(BACKGROUNDS.values()), float)
_COLOURS = np.array(list(COLOURS.values()), float)
_PLACES = 13  # a side of the grid on which the search begins; a 32nd of the canvas apart
_REFINEMENTS = 12
# Of the canvas; the differences of coverage over it stand for its gradient.
_NEARBY = 1 / 4096


class IdealScenes(NamedTuple):
    """Scenes by position in SHAPES, COLOURS and BACKGROUNDS, with the actor's place in each frame.

    Centres are those of the actor's box, (x, y) in pixels from the canvas' top left corner.
    """

    shape: Int[np.ndarray, " N"]
    colour: Int[np.ndarray, " N"]
    background: Int[np.ndarray, " N"]
    centres: Float[np.ndarray, "N F 2"]
    coverage: Float[np.ndarray, "N F H W"]
    """By the actor, 0 to 1."""

    def background_rgb(self) -> Float[np.ndarray, "N 3"]:
        """The background's colour, 0 to 255."""
        return _BACKGROUNDS[self.background]

    def actor_rgb(self) -> Float[np.ndarray, "N 3"]:
        """The actor's colour, 0 to 255."""
        return _COLOURS[self.colour]

    def render(self) -> UInt8[np.ndarray, "N F H W 3"]:
        """The scenes drawn as `shapes.render_scene` draws its own."""
        below, above = (
            rgb[:, None, None, None] for rgb in (self.background_rgb(), self.actor_rgb())
        )
        return np.rint(below + self.coverage[..., None] * (above - below)).astype(np.uint8)


def fit_scenes(videos: UInt8[np.ndarray, "N F S S 3"]) -> IdealScenes:
    """The scenes of least squared error: one background, colour and shape each, one place a frame.

    Backgrounds and colours are those of the palettes. Places are all at which the actor lies
    within the canvas, in parts of a pixel; they need not lie on a line.
    """
    pixels = videos.astype(np.float32)
    size = videos.shape[2]
    pairs, starts = _search(pixels, size)
    fits = []
    for shape, (pair, start) in enumerate(zip(pairs, starts, strict=True)):
        below, above = (palette[p] for palette, p in zip(_PALETTES, _pair(pair), strict=True))
        seen = _unmix(pixels, below, above)
        centres, error = _refine(SHAPES[shape], seen, start, size)
        # To the error within the line of the two colours comes that across it.
        way = above - below
        length = (way * way).sum(1)
        across = ((pixels - below[:, None, None, None]) ** 2).sum((1, 2, 3, 4), dtype=float)
        across -= length * (seen**2).sum((1, 2, 3), dtype=float)
        fits.append((centres, across + length * error))
    best = np.argmin([error for _, error in fits], axis=0)
    scenes = np.arange(len(videos))
    centres = np.stack([centres for centres, _ in fits])[best, scenes]
    background, colour = _pair(np.stack(pairs)[best, scenes])
    coverage = np.empty(videos.shape[:-1])
    for index, shape in enumerate(SHAPES):
        coverage[best == index] = draw_coverage(shape, centres[best == index], size)
    return IdealScenes(best, colour, background, centres, coverage)


_PALETTES = (_BACKGROUNDS, _COLOURS)
_PAIRS = np.array(list(product(range(len(_BACKGROUNDS)), range(len(_COLOURS)))))


def _pair(number: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Positions in the tables of backgrounds and colours."""
    return _PAIRS[number, 0], _PAIRS[number, 1]


def _search(
    pixels: Float[np.ndarray, "N F S S 3"], size: int
) -> tuple[list[Int[np.ndarray, " N"]], list[Float[np.ndarray, "N F 2"]]]:
    """For each shape the best pair of colours, and with it the best places on the grid.

    All pairs of colours are tried at all places. With coverage a, background b and way d to the
    actor's colour, the error |x - b - a d|^2 of a frame needs the pixels x only in sums: |x - b|^2,
    and those of a (x - b).
    """
    n, frames = pixels.shape[:2]
    grid = _places(size)
    flat = pixels.reshape(n * frames, size * size, 3)
    by_channel = flat.transpose(0, 2, 1).reshape(-1, size * size)
    of_backdrop = np.stack([((flat - b) ** 2).sum((1, 2)) for b in _BACKGROUNDS.astype(np.float32)])
    pairs, starts = [], []
    for shape in SHAPES:
        coverage = draw_coverage(shape, grid, size).reshape(len(grid), -1).astype(np.float32)
        sums, squares = coverage.sum(1), (coverage**2).sum(1)
        weighted = (by_channel @ coverage.T).reshape(n * frames, 3, len(grid))
        errors, places = [], []
        for background, colour in _PAIRS:
            below = _BACKGROUNDS[background].astype(np.float32)
            way = _COLOURS[colour].astype(np.float32) - below
            along = np.einsum("mcp,c->mp", weighted, way) - sums * (below @ way)
            gain = (way @ way) * squares - 2 * along
            place = gain.argmin(1)
            least = np.take_along_axis(gain, place[:, None], axis=1)[:, 0]
            errors.append((of_backdrop[background] + least).reshape(n, frames).sum(1))
            places.append(place.reshape(n, frames))
        pair = np.argmin(errors, axis=0)
        pairs.append(pair)
        starts.append(grid[np.stack(places)[pair, np.arange(n)]])
    return pairs, starts


def _places(size: int) -> Float[np.ndarray, "places 2"]:
    """The grid of centres (x, y) at which the actor lies within the canvas."""
    side = np.linspace(REACH, 1 - REACH, _PLACES) * size
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def _unmix(
    pixels: Float[np.ndarray, "N F S S 3"],
    below: Float[np.ndarray, "N 3"],
    above: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, "N F S S"]:
    """Each pixel's place on the way from the background's colour (0) to the actor's (1)."""
    way = above - below
    along = np.einsum("nfhwc,nc->nfhw", pixels, way) - (below * way).sum(1)[:, None, None, None]
    return along / (way * way).sum(1)[:, None, None, None]


def _refine(
    shape: str,
    seen: Float[np.ndarray, "N F S S"],
    start: Float[np.ndarray, "N F 2"],
    size: int,
) -> tuple[Float[np.ndarray, "N F 2"], Float[np.ndarray, " N"]]:
    """Centres near the start at which the coverage comes nearest, and its squared error.

    Steps of Gauss and Newton, each taken where it helps and halved where it does not.
    """
    least, most = REACH * size, (1 - REACH) * size
    nearby = _NEARBY * size

    def draw(centres: Float[np.ndarray, "N F 2"]) -> Float[np.ndarray, "N F S S"]:
        return draw_coverage(shape, centres, size)

    def slope(centres: Float[np.ndarray, "N F 2"], way: tuple[float, float]) -> np.ndarray:
        move = nearby * np.array(way)
        return (draw(centres + move) - draw(centres - move)) / (2 * nearby)

    centres = start
    residual = seen - draw(centres)
    error = (residual**2).sum((2, 3))
    share = np.ones_like(error)
    for _ in range(_REFINEMENTS):
        right, down = slope(centres, (1.0, 0.0)), slope(centres, (0.0, 1.0))
        xx, xy, yy = (
            np.einsum("nfhw,nfhw->nf", a, b)
            for a, b in ((right, right), (right, down), (down, down))
        )
        x, y = (np.einsum("nfhw,nfhw->nf", a, residual) for a in (right, down))
        determinant = np.maximum(xx * yy - xy * xy, 1e-9)
        step = np.stack([yy * x - xy * y, xx * y - xy * x], axis=-1) / determinant[..., None]
        tried = np.clip(centres + share[..., None] * step, least, most)
        left = seen - draw(tried)
        error_there = (left**2).sum((2, 3))
        better = error_there < error
        centres = np.where(better[..., None], tried, centres)
        residual = np.where(better[..., None, None], left, residual)
        error = np.where(better, error_there, error)
        share = np.where(better, np.minimum(2 * share, 1), share / 2)
    return centres, error.sum(1)
