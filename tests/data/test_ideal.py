import numpy as np
import pytest

from m2dit_jax.data.ideal import fit_scenes
from m2dit_jax.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    ShapesSource,
    draw_coverage,
    render_scene,
)


def real_scenes(frames, size, stories):
    items = [
        ShapesSource(3, 3, frames, size, held_out, stories)[i]
        for held_out in (False, True)
        for i in range(stories)
    ]
    return np.concatenate([i["video"] for i in items]), [s for i in items for s in i["scenes"]]


def names(ideal):
    return [
        (SHAPES[s], tuple(COLOURS)[c], tuple(BACKGROUNDS)[b])
        for s, c, b in zip(ideal.shape, ideal.colour, ideal.background, strict=True)
    ]


def noisy(videos, sigma):
    moved = videos + np.random.default_rng(0).normal(0, sigma, videos.shape)
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("frames", "size"), [(3, 16), (2, 8), (3, 24)])
@pytest.mark.parametrize("sigma", [0, 40])
def test_every_scene_is_found_also_under_much_noise(frames, size, sigma):
    videos, scenes = real_scenes(frames, size, 8)
    ideal = fit_scenes(noisy(videos, sigma))
    assert names(ideal) == [(s.shape, s.colour, s.background) for s in scenes]
    if sigma == 0:
        # One step of 255 at the edges of some: there the true value was rounded.
        assert np.abs(ideal.render().astype(int) - videos).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_place_is_found_to_a_hundredth_of_a_pixel(shape):
    jitters = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 2))
    scene = Scene(shape, "cyan", "navy", "up")
    videos = np.stack([render_scene(scene, 3, 16, jitter=tuple(j)) for j in jitters])
    ideal = fit_scenes(videos)
    expected = 8 + jitters[:, None] + np.array([[0, 2.5], [0, 0], [0, -2.5]])
    np.testing.assert_allclose(ideal.centres, expected, atol=0.01)


def test_an_actor_beyond_the_canvas_is_put_at_its_edge():
    coverage = draw_coverage("square", np.array([[3.0, 8.0], [3.0, 8.0]]), 16)
    video = np.rint(255 * coverage[..., None] * [1, 0, 0]).astype(np.uint8)
    ideal = fit_scenes(video[None])
    np.testing.assert_allclose(ideal.centres[0, :, 0], 5, atol=0.01)  # half an actor: 5/16
    assert names(ideal) == [("square", "red", "black")]


def test_one_shape_stands_for_all_frames():
    square, circle = (Scene(shape, "red", "black", "left") for shape in ("square", "circle"))
    video = render_scene(square, 3, 16)
    video[1] = render_scene(circle, 3, 16)[1]
    ideal = fit_scenes(video[None])
    assert names(ideal) == [("square", "red", "black")]
    assert (ideal.render()[0, 0] == video[0]).all()


@pytest.mark.parametrize(("value", "background"), [(0, "black"), (128, "gray"), (255, "white")])
def test_a_blank_picture_has_an_ideal_scene_too(value, background):
    ideal = fit_scenes(np.full((1, 2, 16, 16, 3), value, np.uint8))
    assert np.isfinite(ideal.centres).all()
    assert names(ideal)[0][2] == background
