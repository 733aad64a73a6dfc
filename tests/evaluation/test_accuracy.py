import numpy as np
import pytest

from configs import base
from m2dit_jax.data.oracle import UNKNOWN, Readings, read_scenes
from m2dit_jax.data.shapes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, ShapesSource
from m2dit_jax.evaluation.accuracy import evaluate_stories
from m2dit_jax.evaluation.scores import Score
from m2dit_jax.evaluation.shapes_scores import METRICS, score_stories
from tests.engines import random_engine

STORY = (
    Scene("square", "red", "black", "left"),
    Scene("square", "red", "white", "up", says_it=True),
    Scene("square", "red", "navy", "left"),
)
NONE_GIVEN = np.zeros((1, 3), bool)


def read_as(*scenes):
    """What the oracle would read from these scenes; an attribute called "?" is not recognised."""

    def positions(name, table):
        values = [getattr(scene, name) for scene in scenes]
        return np.array([UNKNOWN if v == "?" else list(table).index(v) for v in values])

    return Readings(
        positions("shape", SHAPES),
        positions("colour", COLOURS),
        positions("background", BACKGROUNDS),
        positions("direction", DIRECTIONS),
    )


def counts(scores):
    return {name: (score.successes, score.n) for name, score in scores.items()}


def test_real_stories_are_all_right_and_nothing_leaks():
    source = ShapesSource(3, 3, 3, 16, True, 40)
    items = [source[i] for i in range(len(source))]
    video = np.concatenate([item["video"] for item in items])
    scores = score_stories(
        read_scenes(video), [item["scenes"] for item in items], np.zeros((40, 3), bool)
    )
    assert tuple(scores) == METRICS
    for name in METRICS:
        assert scores[name].value == (0 if name == "leakage" else 1), name
    assert scores["background"].n == scores["leakage"].n == 120
    assert scores["same_actor"].n == 40
    assert scores["it"].n == sum(s.says_it for item in items for s in item["scenes"])


def test_swapped_backgrounds_leak():
    seen = read_as(
        Scene("square", "red", "white", "left"),
        Scene("square", "red", "black", "up"),
        Scene("square", "red", "navy", "left"),
    )
    assert counts(score_stories(seen, [STORY], NONE_GIVEN)) == {
        "background": (1, 3),
        "colour": (3, 3),
        "shape": (3, 3),
        "direction": (3, 3),
        "it": (1, 1),
        "same_actor": (1, 1),
        "leakage": (2, 3),
    }


def test_a_wrong_value_that_no_other_scene_has_is_no_leakage():
    seen = read_as(
        Scene("square", "red", "olive", "right"),
        Scene("square", "red", "?", "?"),
        Scene("square", "red", "navy", "left"),
    )
    scores = counts(score_stories(seen, [STORY], NONE_GIVEN))
    assert scores["background"] == scores["direction"] == (1, 3)
    assert scores["leakage"] == (0, 3)


def test_background_and_direction_leaking_at_once_count_once():
    seen = read_as(STORY[0], Scene("square", "red", "black", "left"), STORY[2])
    assert counts(score_stories(seen, [STORY], NONE_GIVEN))["leakage"] == (1, 3)


def test_only_scenes_from_which_another_differs_can_show_leakage():
    alike = (STORY[0], STORY[0])
    scores = score_stories(read_as(*alike), [alike], np.zeros((1, 2), bool))
    assert scores["leakage"] == Score(None, None, None, 0)


def test_given_scenes_count_for_the_same_actor_only():
    wrong = Scene("circle", "blue", "white", "right")
    seen = read_as(wrong, wrong, STORY[2])
    assert counts(score_stories(seen, [STORY], np.array([[True, True, False]]))) == {
        "background": (1, 1),
        "colour": (1, 1),
        "shape": (1, 1),
        "direction": (1, 1),
        "it": (0, 0),
        "same_actor": (0, 1),
        "leakage": (0, 1),
    }


@pytest.mark.parametrize(
    ("third", "same"),
    [
        (Scene("circle", "blue", "navy", "left"), True),  # the same though not the prompt's
        (Scene("circle", "red", "navy", "left"), False),
        (Scene("square", "blue", "navy", "left"), False),
        (Scene("?", "blue", "navy", "left"), False),
    ],
)
def test_the_same_actor_must_be_in_all_scenes(third, same):
    other = Scene("circle", "blue", "navy", "left")
    scores = score_stories(read_as(other, other, third), [STORY], NONE_GIVEN)
    assert counts(scores)["same_actor"] == (same, 1)


def test_actors_that_are_never_recognised_are_not_the_same():
    unknown = Scene("?", "?", "navy", "left")
    scores = score_stories(read_as(unknown, unknown, unknown), [STORY], NONE_GIVEN)
    assert counts(scores)["same_actor"] == (0, 1)


def test_it_needs_shape_and_colour():
    for actor in (("circle", "red"), ("square", "blue")):
        seen = read_as(STORY[0], Scene(*actor, "white", "up"), STORY[2])
        assert counts(score_stories(seen, [STORY], NONE_GIVEN))["it"] == (0, 1)


def test_numbers_of_scenes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="2 readings"):
        score_stories(read_as(*STORY[:2]), [STORY], NONE_GIVEN)


@pytest.fixture(scope="module")
def tiny():
    config = base.get_config()
    config.model.update(layers=1, heads=1, head_dim=16, time_dim=16)
    config.sample.steps = 2
    return random_engine(config)


def collect(tiny, **options):
    """The batches of an evaluation, and its scores."""
    batches = []
    scores = evaluate_stories(tiny, seed=5, progress=batches.append, **options)
    return batches, scores


@pytest.mark.slow
def test_a_smaller_last_batch_is_padded_and_cut(tiny):
    batches, scores = collect(tiny, num_stories=5, extension=False, batch_size=3)
    assert [len(batch.video) for batch in batches] == [3, 2]
    assert [len(batch.stories) for batch in batches] == [3, 2]
    assert scores["background"].n == 15


def test_a_story_does_not_depend_on_the_number_of_stories(tiny):
    few = collect(tiny, num_stories=3, extension=False, batch_size=3)[0]
    many = collect(tiny, num_stories=5, extension=False, batch_size=3)[0]
    np.testing.assert_array_equal(few[0].video, many[0].video)
    assert few[0].stories == many[0].stories


def test_extension_gives_all_scenes_but_the_last(tiny):
    (batch,), scores = collect(tiny, num_stories=3, extension=True, batch_size=3)
    source = ShapesSource(5, 3, 3, 16, True, 3)
    for i in range(3):
        np.testing.assert_array_equal(batch.video[i, :2], source[i]["video"][:2])
        assert (batch.video[i, 2] != source[i]["video"][2]).any()
    assert batch.given.tolist() == [[True, True, False]] * 3
    assert scores["background"].n == 3
    assert scores["same_actor"].n == 3


def test_no_stories_are_refused(tiny):
    with pytest.raises(ValueError, match="num_stories=0"):
        collect(tiny, num_stories=0, extension=False)
