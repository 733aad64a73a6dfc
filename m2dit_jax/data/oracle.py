"""Reads background, colour, shape and direction back from the pixels of a scene.

Plain image analysis, nothing learned. It is strict: what it cannot recognise clearly it reports as
unknown, so that a blurred, blank or frozen video does not pass for a good one. It needs canvases of
16 px or more; on smaller ones it also misses a few per cent of the perfect shapes and colours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from m2dit_jax.data.shapes import BACKGROUNDS, COLOURS, DIRECTIONS, PATH, SHAPES, draw_coverage

UNKNOWN = -1

# Palette colours lie at least 127 apart (Euclidean, 8-bit RGB): a colour half-way between two of
# them is further than this from both.
COLOUR_TOLERANCE = 48.0
# An actor must differ at least this much from its background, half the least palette distance.
LEAST_CONTRAST = 64.0
# Share of pixels that must agree with a colour before it counts as seen.
AGREEMENT = 0.75
# An actor covers 19 to 28 % of the canvas.
LEAST_AREA, MOST_AREA = 0.12, 0.38
# Soft intersection over union of the seen silhouette and a template. At 16 px the right template
# keeps above 0.8 up to a blur of 0.7 px (sigma), where the shapes begin to look alike; a wrong one
# reaches 0.85, hence the lead over the second best.
LEAST_MATCH = 0.8
LEAST_MATCH_LEAD = 0.025


@dataclass(frozen=True)
class Readings:
    """One entry per scene: the position in SHAPES, COLOURS and so on, or UNKNOWN."""

    shape: Int[np.ndarray, " N"]
    colour: Int[np.ndarray, " N"]
    background: Int[np.ndarray, " N"]
    direction: Int[np.ndarray, " N"]


def read_scenes(
    videos: np.ndarray, colours: Mapping[str, tuple[int, int, int]] = COLOURS
) -> Readings:
    """Reads scenes [N F H W 3] as `shapes.render_scene` draws them, each attribute on its own.

    `colours` are those that an actor may have, in the order of `Readings`.
    Raises ValueError unless there is a scene and all are square, of 2 frames or more, and uint8.
    """
    if videos.dtype != np.uint8:
        raise ValueError(f"videos must be uint8, got {videos.dtype}")
    if videos.ndim != 5 or len(videos) < 1 or videos.shape[1] < 2:
        raise ValueError(f"videos must be [N >= 1, F >= 2, H, W, 3], got {videos.shape}")
    if videos.shape[2] != videos.shape[3]:
        raise ValueError(f"videos must be square, got {videos.shape}")
    pixels = videos.astype(np.float32)
    backdrop, backdrop_seen = _find_backdrop(pixels)
    actor, actor_seen = _find_actor(pixels, backdrop)
    alpha = _unmix(pixels, backdrop, actor)
    area = (alpha > 0.5).mean((-2, -1))
    alpha_seen = (
        backdrop_seen
        & (np.linalg.norm(actor - backdrop, axis=-1) >= LEAST_CONTRAST)
        & ((area >= LEAST_AREA) & (area <= MOST_AREA)).all(1)
    )
    centroids = _centroids(alpha)
    return Readings(
        shape=np.where(alpha_seen, _match_shape(alpha, centroids), UNKNOWN),
        colour=np.where(alpha_seen & actor_seen, _nearest(actor, colours), UNKNOWN),
        background=np.where(backdrop_seen, _nearest(backdrop, BACKGROUNDS), UNKNOWN),
        direction=np.where(alpha_seen, _find_direction(centroids, videos.shape[2]), UNKNOWN),
    )


def read_scene(video: UInt8[np.ndarray, "F H W 3"]) -> dict[str, str | None]:
    """Reads one scene as names under `Scene`'s field names; None is not recognised.

    Raises ValueError as `read_scenes` does.
    """
    readings = read_scenes(video[None])

    def name(index: Int[np.ndarray, " 1"], names: tuple[str, ...]) -> str | None:
        return None if index[0] == UNKNOWN else names[index[0]]

    return {
        "shape": name(readings.shape, SHAPES),
        "colour": name(readings.colour, tuple(COLOURS)),
        "background": name(readings.background, tuple(BACKGROUNDS)),
        "direction": name(readings.direction, tuple(DIRECTIONS)),
    }


def _find_backdrop(
    pixels: Float[np.ndarray, "N F H W 3"],
) -> tuple[Float[np.ndarray, "N 3"], Bool[np.ndarray, " N"]]:
    """The colour of the canvas' edge, and whether most of the edge has it in every frame."""
    edge = np.concatenate(
        [pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, 1:-1, 0], pixels[:, :, 1:-1, -1]], axis=2
    )
    backdrop = np.median(edge, axis=(1, 2))
    distance = np.linalg.norm(edge - backdrop[:, None, None], axis=-1)
    return backdrop, ((distance <= COLOUR_TOLERANCE).mean(2) >= AGREEMENT).all(1)


def _find_actor(
    pixels: Float[np.ndarray, "N F H W 3"], backdrop: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N 3"], Bool[np.ndarray, " N"]]:
    """The colour that differs most from the backdrop, and whether every frame agrees on it."""
    n, frames, height, width, _ = pixels.shape
    flat = pixels.reshape(n, frames, height * width, 3)
    distance = np.linalg.norm(flat - backdrop[:, None, None], axis=-1)
    # As many pixels as lie well inside even the smallest actor.
    count = max(height * width // 20, 3)
    chosen = np.argpartition(distance, -count, axis=2)[:, :, -count:]
    core = np.take_along_axis(flat, chosen[..., None], axis=2)
    actor = np.median(core, axis=(1, 2))
    spread = np.linalg.norm(core - actor[:, None, None], axis=-1)
    return actor, ((spread <= COLOUR_TOLERANCE).mean(2) >= AGREEMENT).all(1)


def _unmix(
    pixels: Float[np.ndarray, "N F H W 3"],
    backdrop: Float[np.ndarray, "N 3"],
    actor: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, "N F H W"]:
    """Each pixel's place on the way from the backdrop's colour (0) to the actor's (1)."""
    way = actor - backdrop
    length = np.maximum((way * way).sum(-1), 1.0)
    along = np.einsum("nfhwc,nc->nfhw", pixels - backdrop[:, None, None, None], way)
    alpha = np.clip(along / length[:, None, None, None], 0, 1)
    # Noise on the backdrop, small but wide-spread, would draw centroids to the canvas' middle.
    return np.where(alpha < 0.25, 0, alpha)


def _centroids(alpha: Float[np.ndarray, "*batch H W"]) -> Float[np.ndarray, "*batch 2"]:
    """Centres of mass (x, y), in pixels from the top left corner of the canvas."""
    grid = np.arange(alpha.shape[-1]) + 0.5
    mass = np.maximum(alpha.sum((-2, -1)), 1e-6)
    x = (alpha.sum(-2) * grid).sum(-1) / mass
    y = (alpha.sum(-1) * grid).sum(-1) / mass
    return np.stack([x, y], axis=-1)


def _match_shape(
    alpha: Float[np.ndarray, "N F H W"], centroids: Float[np.ndarray, "N F 2"]
) -> Int[np.ndarray, " N"]:
    size = alpha.shape[-1]
    middle = np.full(2, size / 2)
    scores = []
    for shape in SHAPES:
        # Templates are placed by their box's centre, which is not the triangle's centroid.
        offset = middle - _centroids(draw_coverage(shape, middle, size))
        template = draw_coverage(shape, centroids + offset, size)
        overlap = np.minimum(alpha, template).sum((-2, -1))
        union = np.maximum(alpha, template).sum((-2, -1))
        # The worst frame counts: the actor must keep its shape.
        scores.append((overlap / union).min(-1))
    ranked = np.sort(scores, axis=0)
    clear = (ranked[-1] >= LEAST_MATCH) & (ranked[-1] - ranked[-2] >= LEAST_MATCH_LEAD)
    return np.where(clear, np.argmax(scores, axis=0), UNKNOWN)


def _find_direction(centroids: Float[np.ndarray, "N F 2"], size: int) -> Int[np.ndarray, " N"]:
    """The direction of a line fitted through the centroids, if they do lie along one."""
    frames = centroids.shape[1]
    time = np.linspace(-0.5, 0.5, frames)
    velocity = np.einsum("f,nfc->nc", time, centroids) / (time @ time)  # pixels per scene
    expected = PATH * size
    strayed = centroids - centroids.mean(1, keepdims=True) - time[:, None] * velocity[:, None]
    along = np.abs(velocity).max(-1)
    across = np.abs(velocity).min(-1)
    clear = (
        (along >= expected / 4)
        & (across <= along / 3)
        & (np.linalg.norm(strayed, axis=-1).max(-1) <= expected / 4)
    )
    steps = np.array(list(DIRECTIONS.values()))
    return np.where(clear, np.argmax(velocity @ steps.T, axis=-1), UNKNOWN)


def _nearest(
    found: Float[np.ndarray, "N 3"], palette: Mapping[str, tuple[int, int, int]]
) -> Int[np.ndarray, " N"]:
    distance = np.linalg.norm(found[:, None] - np.array(list(palette.values())), axis=-1)
    return np.where(distance.min(1) <= COLOUR_TOLERANCE, distance.argmin(1), UNKNOWN)
