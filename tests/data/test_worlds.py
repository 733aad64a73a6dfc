import numpy as np
import pytest

from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.evaluation.world_scores import SCORERS


def test_every_world_has_a_scorer():
    assert list(WORLDS) == list(SCORERS)
    assert all(world.name == name for name, world in WORLDS.items())


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_draws_what_it_can_read_and_say(name):
    world = WORLDS[name]
    size, lengths = max(world.least_size, 32), world.lengths(2, 4, 0)
    source = world.open(0, lengths, size, True, 4)
    words = set(world.vocabulary())
    most = max(len(prompt.split()) for prompt in world.longest_prompts())
    for story in (source[0], source[1]):
        assert story.lengths == (4, 4) and len(story.scenes) == 2
        assert (story.global_prompt is not None) == world.has_global_prompt
        assert len(story.prompts) == 2 + world.has_global_prompt
        assert {word for prompt in story.prompts for word in prompt.split()} <= words
        assert max(len(prompt.split()) for prompt in story.prompts) <= most
        text = story.global_prompt or ""
        assert world.misfits(story.captions, text, 1, story.video[1]) == []
        other = world.elsewhere(np.random.default_rng(0), story.scenes, 1)
        assert other not in story.captions
        assert world.misfits([story.captions[0], other], text, 1, story.video[1]) != []


def test_shapes_are_those_of_their_source():
    drawn = WORLDS["shapes"].open(3, [(3, 3, 3)], 16, False, 9)[5]
    story = ShapesSource(3, 3, 3, 16, False, 9)[5]
    np.testing.assert_array_equal(drawn.video, story["video"])
    assert drawn.prompts == drawn.captions == story["captions"]


def test_lengths_of_a_storyworld_come_in_turn():
    world = WORLDS["storyworld"]
    assert world.lengths(3, 8, 0) == ((8, 8, 8),)
    assert world.lengths(4, 8, 4) == ((8, 8, 8, 8), (4, 8, 8, 4), (8, 4, 8, 8), (8, 8, 4, 8))
    assert world.lengths(1, 8, 4) == ((8,), (4,))
