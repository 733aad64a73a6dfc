from dataclasses import replace

import numpy as np
import pytest

from m2dit_jax.data.storyworld.attributes import (
    BODIES,
    COLOURS,
    LIGHTS,
    PATTERNS,
    PLACES,
    Actor,
    Scene,
)
from m2dit_jax.data.storyworld.drawing import Path, actor_layers, draw_scene
from m2dit_jax.data.storyworld.paths import scene_paths
from m2dit_jax.data.storyworld.places import contrast, draw_places, light_up, lit_places

ACTOR = Actor("ball", "red", "hat", "dots", "white")
SCENE = Scene((ACTOR,), "right", "sea", 0, "day", 4, "")


def draw(scene: Scene) -> np.ndarray:
    return draw_scene(scene, scene_paths(scene, np.random.default_rng(0)), 32).astype(int)


def centre(scene: Scene) -> np.ndarray:
    """Of what differs from the place, in each frame, (x, y)."""
    there = draw_places(32)[PLACES.index(scene.place), scene.arrangement]
    differs = np.abs(draw(scene) - there).sum(-1) > 40
    return np.array([np.argwhere(frame).mean(0)[::-1] for frame in differs])


def test_actors_go_where_they_are_told() -> None:
    way = {m: np.diff(centre(replace(SCENE, motion=m)), axis=0) for m in ("left", "right", "turn")}
    assert (way["right"][:, 0] > 2).all() and (way["left"][:, 0] < -2).all()
    assert (np.abs(way["turn"]) < 0.5).all()
    jump = centre(replace(SCENE, motion="jump", frames=5))[:, 1]
    assert jump[2] < jump[0] - 4 and abs(jump[0] - jump[4]) < 0.5


def test_two_that_meet_come_nearer_and_do_not_touch() -> None:
    two = (ACTOR, Actor("box", "blue"))
    left, right = scene_paths(replace(SCENE, actors=two, motion="meet"), np.random.default_rng(0))
    gap = right.x - left.x
    assert (np.diff(gap) < 0).all() and gap[-1] > 0.38
    assert (left.facing > 0).all() and (right.facing < 0).all()


@pytest.mark.parametrize(
    "other",
    [
        *({"body": body} for body in BODIES[1:]),
        *({"colour": colour} for colour in list(COLOURS)[1:]),
        {"part": "ears"},
        {"part": "none"},
        *({"pattern": pattern} for pattern in PATTERNS if pattern != "dots"),
        {"second": "dark"},
    ],
)
def test_every_attribute_of_an_actor_is_seen(other: dict[str, str]) -> None:
    changed = replace(SCENE, actors=(replace(ACTOR, **other),))
    differs = np.abs(draw(changed) - draw(SCENE)).max(-1) > 40
    assert differs.sum((1, 2)).min() >= 3


def test_every_place_arrangement_and_light_is_seen() -> None:
    pictures = lit_places(32).reshape(len(LIGHTS) * len(PLACES) * 6, -1)
    squares = (pictures**2).sum(1)
    apart = squares[:, None] + squares - 2 * pictures @ pictures.T + 1e12 * np.eye(len(pictures))
    assert np.sqrt(apart.min() / pictures.shape[1]) > 10


def test_layers_share_out_each_pixel() -> None:
    path = scene_paths(SCENE, np.random.default_rng(0))[0]
    shares, clear = actor_layers(ACTOR, path, slice(0, 32), slice(0, 32), 32)
    np.testing.assert_allclose(sum(shares.values()) + clear, 1, atol=1e-5)
    assert clear.min() == 0 and clear.max() == 1


def test_what_lies_beyond_the_canvas_is_left_out() -> None:
    beyond = np.full(4, 1.6)
    path = Path(beyond, beyond, 0 * beyond, 0 * beyond)
    there = np.rint(draw_places(32)[0, 0])
    np.testing.assert_array_equal(draw_scene(SCENE, (path,), 32)[0], there)


def test_light_bounds_contrast() -> None:
    assert contrast("day") == 1 and 0.4 < contrast("night") < 0.7
    colours = np.array([[0, 0, 0], [255, 255, 255]], float)
    for light in LIGHTS:
        lit = light_up(colours, light)
        assert lit.min() >= 0 and lit.max() <= 255
        assert abs((lit[1] - lit[0]).mean() / 255 - contrast(light)) < 1e-5
