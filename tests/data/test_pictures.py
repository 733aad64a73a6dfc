import numpy as np
import pytest

from m2dit_jax.data.pictures import ScenePictures, StoryPictures, add_picture, has_picture
from m2dit_jax.data.shapes import COLOURS
from m2dit_jax.data.storyworld.oracle import read_scene
from m2dit_jax.data.worlds import WORLDS


def stories(world, number=12):
    source = WORLDS[world].open(3, [(4, 4, 4)], 32, False, number)
    return [source[index] for index in range(number)]


@pytest.mark.parametrize("world", WORLDS)
def test_only_the_picture_says_who_acts(world):
    words = {"a", "an", *COLOURS}
    for number, story in enumerate(stories(world)):
        found = add_picture(story, WORLDS[world], np.random.default_rng(number), 4)
        assert len(found.captions) == 4 and found.lengths == (4, 4, 4, 4)
        assert not words & {word for caption in found.captions for word in caption.split()}
        np.testing.assert_array_equal(found.video[1:], story.video)
        assert (found.video[0] == found.video[0, :1]).all()
        assert [scene.caption for scene in found.scenes] == found.captions[1:]
        WORLDS[world].picture(np.random.default_rng(0), story.scenes, 32)


def test_a_picture_of_shapes_shows_the_actor_in_the_middle():
    for number, story in enumerate(stories("shapes")):
        picture = WORLDS["shapes"].picture(np.random.default_rng(number), story.scenes, 32).picture
        assert tuple(picture[16, 16]) == COLOURS[story.scenes[0].colour]


def test_a_picture_of_the_storyworld_shows_all_actors_with_their_looks():
    for number, story in enumerate(stories("storyworld", 6)):
        picture = WORLDS["storyworld"].picture(np.random.default_rng(number), story.scenes, 32)
        cast = list(dict.fromkeys(actor for scene in story.scenes for actor in scene.actors))
        read = read_scene(np.repeat(picture.picture[None], 4, 0))
        assert [(r.body, r.colour, r.part) for r in read.actors] == [a.named for a in cast]
        assert [r.look for r in read.actors] == [a.look for a in cast]
        assert picture.prompt == ("they" if len(cast) > 1 else "it")


@pytest.mark.parametrize(("share", "rounds"), [(0.5, 1), (0.25, 4), (1.0, 2), (0.3, 3)])
def test_a_share_of_the_batches_has_pictures_whatever_their_lengths(share, rounds):
    pictures = StoryPictures(WORLDS["shapes"], 0, share, 2, rounds)
    for first in range(rounds):
        has = [pictures.has(batch) for batch in range(first, 100 * rounds, rounds)]
        assert np.mean(has) == pytest.approx(share, abs=0.011)
    kinds = {(pictures.has(batch), batch % rounds) for batch in range(100 * rounds)}
    assert {(pictures.has(b), b % rounds) for b in pictures.examples()} == kinds
    assert len(pictures.examples()) == len(kinds)


def test_the_same_story_always_has_the_same_picture():
    pictures = StoryPictures(WORLDS["storyworld"], 5, 0.5, 4)
    [story] = stories("storyworld", 1)
    np.testing.assert_array_equal(pictures.add(story, 0).video, pictures.add(story, 0).video)
    assert (pictures.add(story, 0).video[0] != pictures.add(story, 1).video[0]).any()


def test_a_picture_is_of_a_scene_that_the_sample_lacks_where_there_is_one():
    pictures = ScenePictures(0, 0.5, 1)
    sample = [(3, 1), (3, 2)]
    counts = [0, 0, 0, 5]
    found = {pictures.choose(sample, counts, (batch, 0)) for batch in range(50)}
    assert found == {(3, 0), (3, 3), (3, 4)}
    assert pictures.choose(sample, counts, (4, 1)) == pictures.choose(sample, counts, (4, 1))
    only = {pictures.choose([(0, 0), (1, 0)], [1, 1], (batch, 0)) for batch in range(50)}
    assert only == {(0, 0), (1, 0)}


@pytest.mark.parametrize(("share", "times"), [(0.0, 0), (0.25, 5), (1.0, 20)])
def test_a_share_of_the_numbers_is_spread_evenly(share, times):
    assert [has_picture(number, share) for number in range(20)].count(True) == times
