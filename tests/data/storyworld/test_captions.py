import numpy as np
import pytest

from m2dit_jax.data.storyworld.captions import (
    GLOBAL_PROMPTS,
    Meaning,
    light_of,
    parse_captions,
    vocabulary,
)
from m2dit_jax.data.storyworld.stories import draw_story


def test_the_words_never_change() -> None:
    assert " ".join(vocabulary()) == (
        "a an and at back first fog in it jump jumps left meet on one right second the they turn "
        "turns walk walks with red yellow green blue purple orange ball box cone ghost hat ears "
        "sea forest city desert snow meadow dusk morning night"
    )


@pytest.mark.parametrize("held_out", [False, True])
def test_captions_mean_what_their_scenes_are(held_out: bool) -> None:
    rng, words = np.random.default_rng(0), set(vocabulary())
    for _ in range(200):
        story = draw_story(rng, [4] * 5, held_out)
        captions = [scene.caption for scene in story]
        assert {word for caption in captions for word in caption.split()} <= words
        assert max(len(caption.split()) for caption in captions) < 20
        for scene, meaning in zip(story, parse_captions(captions), strict=True):
            named = tuple(actor.named for actor in scene.actors)
            assert meaning == Meaning(named, scene.motion, scene.place)


@pytest.mark.parametrize(
    "captions",
    [["it jumps at the sea"], ["they meet in the city"], ["a red fox jumps at the sea"], [""]],
)
def test_who_was_never_named_is_nobody(captions: list[str]) -> None:
    assert parse_captions(captions) == [None]


def test_global_prompts_are_lights() -> None:
    assert [light_of(text) for text in GLOBAL_PROMPTS.values()] == list(GLOBAL_PROMPTS)
    assert light_of("  at   dusk ") == light_of("At dusk.") == "dusk"
    assert light_of("an old film") is None
    assert {w for text in GLOBAL_PROMPTS.values() for w in text.split()} <= set(vocabulary())
