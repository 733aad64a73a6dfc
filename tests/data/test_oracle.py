from dataclasses import asdict

import numpy as np
import pytest

from m2dit_jax.data.oracle import UNKNOWN, read_scene, read_scenes
from m2dit_jax.data.shapes import (
    ACTOR_COLOURS,
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Scene,
    ShapesSource,
    render_scene,
)

TABLES = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "direction": tuple(DIRECTIONS),
}
SCENE = Scene("circle", "red", "gray", "left")
READ = {"shape": "circle", "colour": "red", "background": "gray", "direction": "left"}
NOTHING = dict.fromkeys(READ)


def real_scenes(frames=3, size=16):
    items = [
        ShapesSource(3, 3, frames, size, held_out, length=100)[i]
        for held_out in (False, True)
        for i in range(100)
    ]
    videos = np.concatenate([item["video"] for item in items])
    return videos, [scene for item in items for scene in item["scenes"]]


def accuracy(videos, scenes):
    readings = asdict(read_scenes(videos))
    return {
        name: np.mean([table.index(getattr(s, name)) for s in scenes] == readings[name])
        for name, table in TABLES.items()
    }


def blur(videos, strength):
    """Blurs with the kernel [strength, 1, strength], normalised, along both axes."""
    pixels = np.pad(videos.astype(float), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    pixels = strength * (pixels[:, :, :-2] + pixels[:, :, 2:]) + pixels[:, :, 1:-1]
    pixels = strength * (pixels[..., :-2, :] + pixels[..., 2:, :]) + pixels[..., 1:-1, :]
    return pixels / (1 + 2 * strength) ** 2


def to_bytes(pixels):
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def noisy(pixels, sigma=10):
    return to_bytes(pixels + np.random.default_rng(0).normal(0, sigma, pixels.shape))


@pytest.mark.parametrize(("frames", "size"), [(2, 16), (3, 16), (5, 16), (3, 32)])
def test_real_scenes_are_read_right(frames, size):
    videos, scenes = real_scenes(frames, size)
    assert min(accuracy(videos, scenes).values()) == 1


def test_noise_and_slight_blur_do_no_harm():
    videos, scenes = real_scenes()
    assert min(accuracy(noisy(videos), scenes).values()) >= 0.99
    assert min(accuracy(to_bytes(blur(videos, 0.3)), scenes).values()) >= 0.99
    assert min(accuracy(noisy(blur(videos, 0.3)), scenes).values()) >= 0.99


def test_one_scene_is_read_as_names():
    assert read_scene(render_scene(SCENE, frames=3, size=16)) == READ


def test_a_blank_video_has_a_background_only():
    video = np.full((3, 16, 16, 3), (0, 0, 128), np.uint8)
    assert read_scene(video) == NOTHING | {"background": "navy"}


def test_random_noise_is_nothing():
    videos = np.random.default_rng(0).integers(0, 256, (200, 3, 16, 16, 3), np.uint8)
    readings = asdict(read_scenes(videos))
    assert all((values == -1).all() for values in readings.values())


def test_a_frozen_actor_has_no_direction():
    video = render_scene(SCENE, frames=3, size=16)
    frozen = np.repeat(video[:1], 3, axis=0)
    assert read_scene(frozen) == READ | {"direction": None}


def test_a_quarter_of_the_path_is_needed():
    # Of 21 frames, 5 px apart from first to last, the steps are 1/4 px.
    slow = render_scene(SCENE, frames=21, size=16)
    assert read_scene(slow[[7, 10, 13]])["direction"] == "left"
    assert read_scene(slow[[8, 10, 12]])["direction"] is None


def test_motion_that_is_not_straight_has_no_direction():
    left = render_scene(SCENE, frames=3, size=16)
    up = render_scene(Scene("circle", "red", "gray", "up"), frames=3, size=16)
    diagonal = np.stack([np.roll(f, s, axis=0) for f, s in zip(left, (3, 0, -3), strict=True)])
    assert read_scene(diagonal) == READ | {"direction": None}
    assert read_scene(np.stack([left[0], left[1], up[2]]))["direction"] is None
    assert read_scene(left[[0, 2, 0]])["direction"] is None
    assert read_scene(left[[0, 2, 0, 2]])["direction"] is None


def test_half_way_colours_are_unknown():
    red, yellow = (
        render_scene(Scene("circle", colour, "gray", "left"), frames=3, size=16)
        for colour in ("red", "yellow")
    )
    orange = red // 2 + yellow // 2
    assert read_scene(orange) == READ | {"colour": None}

    gray, white = (
        render_scene(Scene("circle", "red", background, "left"), frames=3, size=16)
        for background in ("gray", "white")
    )
    between = gray // 2 + white // 2
    assert read_scene(between) == READ | {"background": None}


def test_an_actor_that_changes_its_colour_has_none():
    red, yellow = (
        render_scene(Scene("circle", colour, "gray", "left"), frames=3, size=16)
        for colour in ("red", "yellow")
    )
    assert read_scene(np.stack([red[0], red[1], yellow[2]]))["colour"] is None


def test_a_background_that_changes_is_unknown():
    gray, white = (
        render_scene(Scene("circle", "red", background, "left"), frames=3, size=16)
        for background in ("gray", "white")
    )
    assert read_scene(np.stack([gray[0], gray[1], white[2]])) == NOTHING


def test_an_actor_that_changes_its_shape_has_none():
    circle, cross = (
        render_scene(Scene(shape, "red", "gray", "left"), frames=3, size=16)
        for shape in ("circle", "cross")
    )
    mixed = np.stack([circle[0], circle[1], cross[2]])
    assert read_scene(mixed) == READ | {"shape": None}


def test_smeared_shapes_are_unknown():
    videos, _ = real_scenes()
    smeared = videos
    for _ in range(4):
        smeared = blur(smeared, 0.8)
    assert (read_scenes(to_bytes(smeared)).shape == -1).all()


@pytest.mark.parametrize("shape", ["square", "circle", "cross"])
def test_mixtures_with_a_triangle_are_unknown(shape):
    triangle, other = (
        render_scene(Scene(name, "red", "black", "left"), frames=3, size=16)
        for name in ("triangle", shape)
    )
    assert read_scene(triangle // 2 + other // 2)["shape"] is None


def test_specks_and_floods_are_no_actors():
    speck = np.zeros((3, 16, 16, 3), np.uint8)
    flood = np.zeros((3, 16, 16, 3), np.uint8)
    for frame in range(3):
        speck[frame, 7:10, 4 + 3 * frame : 7 + 3 * frame] = (255, 0, 0)
        flood[frame, 2:14, 1 + frame : 13 + frame] = (255, 0, 0)
    assert read_scene(speck) == NOTHING | {"background": "black"}
    assert read_scene(flood) == NOTHING | {"background": "black"}


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (np.zeros((1, 3, 16, 16, 3)), "must be uint8, got float64"),
        (np.zeros((0, 3, 16, 16, 3), np.uint8), r"got \(0, 3, 16, 16, 3\)"),
        (np.zeros((1, 1, 16, 16, 3), np.uint8), r"got \(1, 1, 16, 16, 3\)"),
        (np.zeros((1, 3, 16, 8, 3), np.uint8), r"got \(1, 3, 16, 8, 3\)"),
        (np.zeros((3, 16, 16, 3), np.uint8), r"got \(3, 16, 16, 3\)"),
    ],
)
def test_bad_videos_are_refused(videos, message):
    with pytest.raises(ValueError, match=message):
        read_scenes(videos)


def test_colours_of_grounds_are_read_where_actors_may_have_them():
    story = ShapesSource(0, 6, 3, 16, False, 1, "gray cross")[0]
    readings = read_scenes(story["video"], ACTOR_COLOURS)
    assert {list(ACTOR_COLOURS)[i] for i in readings.colour} == {"gray"}
    assert set(read_scenes(story["video"]).colour) == {UNKNOWN}
