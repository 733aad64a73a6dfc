from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    JITTER,
    SHAPES,
    Scene,
    ShapesSource,
    draw_coverage,
    draw_elsewhere,
    draw_picture,
    draw_story,
    is_held_out,
    parse_captions,
    read_actor,
    render_scene,
    render_story,
    vocabulary,
)

ALL_SCENES = [Scene(*names) for names in product(SHAPES, COLOURS, BACKGROUNDS, DIRECTIONS)]


def test_captions_name_the_actor_or_say_it():
    assert Scene("cross", "red", "gray", "left").caption == "a red cross moves left on gray"
    assert Scene("cross", "red", "navy", "up", says_it=True).caption == "it moves up on navy"


def test_palette_is_well_separated():
    palette = [np.array(rgb) for rgb in (*COLOURS.values(), *BACKGROUNDS.values())]
    assert min(np.linalg.norm(a - b) for a, b in combinations(palette, 2)) >= 127


def test_vocabulary_is_fixed():
    assert " ".join(vocabulary()) == (
        "a it moves on red green blue yellow magenta cyan square circle triangle cross "
        "left right up down black gray white navy maroon olive"
    )


def test_held_out_rule():
    assert is_held_out(Scene("square", "red", "black", "left"))
    assert not is_held_out(Scene("square", "red", "black", "right"))
    assert is_held_out(Scene("square", "red", "gray", "down"))
    assert is_held_out(Scene("cross", "red", "gray", "left", says_it=True))


def test_each_actor_has_one_held_out_direction_on_each_background():
    held_out = [s for s in ALL_SCENES if is_held_out(s)]
    assert len(held_out) == len(ALL_SCENES) // 4
    assert len({(s.shape, s.colour, s.background) for s in held_out}) == len(held_out)


@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans())
def test_stories(seed, num_scenes, held_out):
    story = draw_story(np.random.default_rng(seed), num_scenes, held_out)
    assert len(story) == num_scenes
    assert len({(scene.shape, scene.colour) for scene in story}) == 1
    assert len({scene.background for scene in story}) == min(num_scenes, 6)
    assert [is_held_out(scene) for scene in story] == [held_out] * num_scenes
    assert not story[0].says_it


def test_stories_cover_everything_a_scene_may_be():
    rng = np.random.default_rng(0)
    training = {scene for _ in range(6000) for scene in draw_story(rng, 3, held_out=False)}
    # Both ways to refer to the actor, for each of the training combinations.
    assert len(training) == 2 * sum(not is_held_out(scene) for scene in ALL_SCENES)


def test_shapes_have_the_areas_they_should():
    areas = {s: float(draw_coverage(s, np.array([32.0, 32.0]), 64).sum()) for s in SHAPES}
    assert areas["circle"] == pytest.approx(np.pi * 18.8**2, rel=0.01)
    assert areas["square"] == pytest.approx(33.2**2, rel=0.01)
    assert areas["triangle"] == pytest.approx(40 * 40 / 2, rel=0.01)
    assert areas["cross"] == pytest.approx(2 * 40 * 16 - 16**2, rel=0.01)


def test_unknown_shapes_are_refused():
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        draw_coverage("star", np.zeros(2), 8)


@pytest.mark.parametrize(
    ("direction", "first", "last"),
    [
        ("left", (10.5, 8), (5.5, 8)),
        ("right", (5.5, 8), (10.5, 8)),
        ("up", (8, 10.5), (8, 5.5)),
        ("down", (8, 5.5), (8, 10.5)),
    ],
)
def test_actors_cross_the_middle(direction, first, last):
    video = render_scene(Scene("circle", "red", "black", direction), frames=5, size=16)
    assert video.shape == (5, 16, 16, 3)
    assert video.dtype == np.uint8
    red = video[..., 0] / 255
    grid = np.arange(16) + 0.5
    x = (red.sum(1) @ grid) / red.sum((1, 2))
    y = (red.sum(2) @ grid) / red.sum((1, 2))
    np.testing.assert_allclose(x, np.linspace(first[0], last[0], 5), atol=0.02)
    np.testing.assert_allclose(y, np.linspace(first[1], last[1], 5), atol=0.02)


def test_jitter_shifts_the_whole_path():
    scene = Scene("square", "cyan", "olive", "up")
    still = render_scene(scene, frames=3, size=16)
    moved = render_scene(scene, frames=3, size=16, jitter=(1.0, -1.0))
    np.testing.assert_array_equal(moved[:, :-1, 1:], still[:, 1:, :-1])


def test_colours_are_those_of_the_tables():
    video = render_scene(Scene("square", "magenta", "navy", "down"), frames=3, size=16)
    assert video[1, 8, 8].tolist() == [255, 0, 255]
    assert video[1, 0, 0].tolist() == [0, 0, 128]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [8, 16, 32])
def test_actors_stay_on_the_canvas_at_the_greatest_jitter(shape, size):
    areas = []
    for direction, (dx, dy) in DIRECTIONS.items():
        jitter = (dx * JITTER * size, dy * JITTER * size)
        video = render_scene(Scene(shape, "red", "black", direction), 2, size, jitter)
        areas.append(video[..., 0].sum((1, 2)) / 255)
    np.testing.assert_allclose(areas, np.mean(areas), rtol=0.05)


def test_scenes_of_a_story_are_jittered_one_by_one():
    scene = Scene("circle", "red", "black", "left")
    video = render_story([scene, scene], np.random.default_rng(0), frames=2, size=16)
    assert video.shape == (2, 2, 16, 16, 3)
    assert (video[0] != video[1]).any()


def test_a_source_is_deterministic():
    source, again = (ShapesSource(7, 3, 3, 16, held_out=False, length=9) for _ in range(2))
    assert len(source) == 9
    again[2]  # The order of access makes no difference.
    np.testing.assert_array_equal(source[5]["video"], again[5]["video"])
    assert source[5]["scenes"] == again[5]["scenes"]
    assert source[5]["video"].shape == (3, 3, 16, 16, 3)
    assert source[5]["captions"] == [scene.caption for scene in source[5]["scenes"]]


def test_seed_index_and_split_all_matter():
    items = [
        ShapesSource(seed, 3, 3, 16, held_out, length=2)[index]
        for seed, held_out, index in product([0, 1], [False, True], [0, 1])
    ]
    assert len({item["video"].tobytes() for item in items}) == 8


def test_splits_share_no_scene():
    training, held_out = (
        {
            (scene.shape, scene.colour, scene.background, scene.direction)
            for story in ShapesSource(0, 3, 2, 8, split, length=200)
            for scene in story["scenes"]
        }
        for split in (False, True)
    )
    assert training.isdisjoint(held_out)


def test_indices_out_of_range_are_refused():
    source = ShapesSource(0, 3, 3, 16, held_out=False, length=2)
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"story {index} of a source of 2"):
            source[index]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_scenes", 0), ("frames", 1), ("size", 7), ("seed", -1), ("length", -1)],
)
def test_bad_arguments_are_refused(name, value):
    good = dict(seed=0, num_scenes=3, frames=3, size=16, held_out=False, length=2)
    with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
        ShapesSource(**(good | {name: value}))


def test_drawing_and_rendering_refuse_bad_arguments():
    with pytest.raises(ValueError, match="num_scenes must be at least 1, got 0"):
        draw_story(np.random.default_rng(0), 0, held_out=False)
    with pytest.raises(ValueError, match="frames must be at least 2, got 1"):
        render_scene(ALL_SCENES[0], frames=1, size=16)


def test_captions_can_be_read_back():
    rng = np.random.default_rng(0)
    for _ in range(20):
        story = draw_story(rng, 5, held_out=False)
        assert parse_captions([scene.caption for scene in story]) == list(story)


def test_it_is_the_last_actor_named_or_else_the_first_to_come():
    captions = [
        "it moves up on navy",
        "a red cross moves up on gray",
        "a dog",
        "it moves up on gray",
    ]
    first, second, third, fourth = parse_captions(captions)
    assert first == Scene("cross", "red", "navy", "up", says_it=True)
    assert second == Scene("cross", "red", "gray", "up")
    assert third is None
    assert fourth == Scene("cross", "red", "gray", "up", says_it=True)
    assert parse_captions(["it moves up on navy", "a dog"]) == [None, None]


def test_captions_are_read_with_capitals_and_punctuation():
    plain = ["a red cross moves left on gray", "it moves up on navy"]
    written = ["A red cross moves left, on gray.", "It moves up on navy!"]
    assert parse_captions(written) == parse_captions(plain) != [None, None]


def test_an_actor_that_is_named_is_in_all_stories_and_on_other_grounds():
    stories = [
        ShapesSource(0, 6, 3, 16, held_out, 20, "white circle")[number]
        for held_out, number in product([False, True], range(20))
    ]
    scenes = [scene for story in stories for scene in story["scenes"]]
    assert {(scene.colour, scene.shape) for scene in scenes} == {("white", "circle")}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS) - {"white"}
    assert stories[0]["scenes"][0].caption.startswith("a white circle moves")
    rng = np.random.default_rng(0)
    others = {draw_elsewhere(rng, stories[0]["scenes"], 0).background for _ in range(20)}
    assert "white" not in others
    assert len(np.unique(draw_picture(rng, stories[0]["scenes"], 16))) > 1


@pytest.mark.parametrize("text", ["circle", "white", "pink circle", "white circle ", "white star"])
def test_an_actor_that_cannot_be_drawn_is_refused(text):
    with pytest.raises(ValueError, match=f"such as 'white circle', got '{text}'"):
        read_actor(text)
