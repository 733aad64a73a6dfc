import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.data.storyworld.attributes import (
    BODIES,
    COLOURS,
    NEW_PATTERN,
    PAIR_MOTIONS,
    PLACES,
    SOLO_MOTIONS,
    Actor,
)
from m2dit_jax.data.storyworld.stories import (
    StoryworldSource,
    draw_elsewhere,
    draw_story,
    is_held_out,
)

LENGTHS = ((4, 4, 4), (3, 4, 4))


def make_source(held_out: bool = False, **changed) -> StoryworldSource:
    arguments = {"seed": 1, "lengths": LENGTHS, "size": 32, "held_out": held_out, "length": 300}
    return StoryworldSource(**(arguments | changed))


def stories(held_out: bool, number: int = 200, scenes: int = 6):
    rng = np.random.default_rng(0)
    return [draw_story(rng, [4] * scenes, held_out) for _ in range(number)]


def test_a_story_depends_on_seed_half_and_index_alone() -> None:
    first, again = make_source()[7], make_source(length=8)[7]
    assert first["captions"] == again["captions"]
    np.testing.assert_array_equal(first["video"], again["video"])
    others = [make_source(seed=2)[7], make_source(held_out=True)[7], make_source()[8]]
    assert all((other["video"] != first["video"]).any() for other in others)


def test_stories_of_a_seed_never_change() -> None:
    story = make_source()[0]
    assert story["captions"] == [
        "an orange box with a hat and a blue ghost with ears walk right in the desert",
        "a blue ghost with ears walks right in the city",
        "an orange box with a hat jumps back in the desert",
    ]
    assert int(story["video"].astype(np.int64).sum()) == 5900177


def test_scenes_have_their_lengths_and_nothing_after_them() -> None:
    source = make_source(in_a_row=2)
    assert [[scene.frames for scene in source[i]["scenes"]] for i in (1, 2)] == [
        [4, 4, 4],
        [3, 4, 4],
    ]
    video = source[2]["video"]
    assert video.shape == (3, 4, 32, 32, 3)
    assert not video[0, 3:].any() and video[1, 3:].any()


@pytest.mark.parametrize("held_out", [False, True])
def test_all_scenes_are_held_out_or_none_is(held_out: bool) -> None:
    for story in stories(held_out):
        for scene in story:
            for actor in scene.actors:
                assert is_held_out(actor, scene.place, scene.motion) == held_out


def test_each_actor_has_one_held_out_motion_at_each_place() -> None:
    for motions in (SOLO_MOTIONS, PAIR_MOTIONS):
        for body in BODIES:
            for colour in COLOURS:
                for place in PLACES:
                    actor = Actor(body, colour)
                    assert sum(is_held_out(actor, place, motion) for motion in motions) == 1


def test_one_pattern_is_in_held_out_stories_only() -> None:
    def has_it(held_out: bool) -> bool:
        return any(a.pattern == NEW_PATTERN for s in stories(held_out) for a in s[0].actors)

    assert has_it(True) and not has_it(False)


def test_what_no_caption_says_agrees_in_all_scenes() -> None:
    for story in stories(False):
        assert len({scene.light for scene in story}) == 1
        cast = set(story[0].actors)
        assert all(set(scene.actors) <= cast for scene in story)
        by_place = {(scene.place, scene.arrangement) for scene in story}
        assert len(by_place) == len({scene.place for scene in story})


def test_stories_come_back_to_places_and_say_so() -> None:
    returns = 0
    for story in stories(False):
        seen: list[str] = []
        for scene in story:
            assert scene.returns == (scene.place in seen) == (" back " in scene.caption)
            assert not seen or scene.place != seen[-1]
            seen.append(scene.place)
            returns += scene.returns
    assert returns > 200


def test_the_first_scene_names_the_actors_and_two_have_two_colours() -> None:
    for story in stories(True):
        assert story[0].names_actors
        assert len({actor.colour for actor in story[0].actors}) == len(story[0].actors)


def test_elsewhere_is_another_place_and_motion() -> None:
    rng = np.random.default_rng(0)
    for story in stories(False, 30, scenes=3):
        caption = draw_elsewhere(rng, story, 1)
        assert not any(scene.place in caption for scene in story)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 299), st.booleans(), st.sampled_from([24, 32, 40]))
def test_any_story_can_be_drawn(index: int, held_out: bool, size: int) -> None:
    story = make_source(held_out, size=size)[index]
    assert story["video"].shape[2:] == (size, size, 3)
    assert len(story["captions"]) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": ()}, "lengths must be of scenes of at least 3 frames"),
        ({"lengths": ((2, 4),)}, "lengths must be of scenes of at least 3 frames"),
        ({"size": 8}, "size must be at least 24, got 8"),
        ({"seed": -1}, "self.seed=-1|seed=-1"),
        ({"in_a_row": 0}, "in_a_row=0"),
    ],
)
def test_impossible_sources_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_source(**changed)


def test_no_story_beyond_the_end() -> None:
    with pytest.raises(IndexError, match="story 300 of a source of 300"):
        make_source()[300]
