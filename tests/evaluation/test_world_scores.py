"""Scores of both worlds by their scorers; those of shapes alone are in test_accuracy."""

from dataclasses import replace

import numpy as np
import pytest

from m2dit_jax.data.storyworld.attributes import NEW_PATTERN
from m2dit_jax.data.storyworld.fitting import FittedPlace, FittedScene
from m2dit_jax.data.storyworld.oracle import ActorReading, Reading
from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.evaluation.fidelity import FIDELITY, Fidelity
from m2dit_jax.evaluation.storyworld_scores import CHANCE, StoryworldReadings
from m2dit_jax.evaluation.world_scores import SCORERS


@pytest.mark.parametrize("name", SCORERS)
def test_real_stories_have_full_marks(name):
    scorer, world = SCORERS[name], WORLDS[name]
    source = world.open(2, world.lengths(3, 8, 0), max(world.least_size, 32), True, 2)
    stories = [source[number] for number in range(2)]
    video, scenes = np.stack([s.video for s in stories]), [s.scenes for s in stories]
    given = np.array([[True, False, False]] * 2)
    scores = scorer.score(scorer.read(video, scenes, given), scenes, given)
    assert tuple(scores) == (*scorer.metrics, *FIDELITY)
    for metric in scorer.metrics:
        wanted = 0 if metric == "leakage" else 1
        assert scores[metric].n == 0 or scores[metric].value == wanted, metric
    psnr, rms = scores["psnr"].value, scores["background_rms"].value
    assert psnr is not None and rms is not None
    assert scores["psnr"].n == 4 and psnr > 40 and rms < 1
    assert set(scorer.of_stories) <= set(scorer.metrics)


def find_story(**wanted):
    """Scenes of a held-out story of three, and readings as of a faultless video."""
    source = WORLDS["storyworld"].open(0, [(4, 4, 4)], 24, True, 400)
    for number in range(400):
        scenes = source[number].scenes
        if all(check(scenes) for check in wanted.values()):
            return scenes
    raise AssertionError("no such story")


def seen(scene, **changed) -> Reading:
    """What an oracle would read of a scene."""
    actors = tuple(
        ActorReading(a.body, a.colour, a.part, a.pattern, a.second) for a in scene.actors
    )
    nearest = FittedScene(FittedPlace(scene.place, 0, scene.light, np.zeros((5, 6, 6))), ())
    reading = Reading(scene.place, scene.arrangement, scene.light, actors, scene.motion, nearest)
    return replace(reading, **changed)


def score(scenes, readings, given=(False, False, False)):
    nothing = Fidelity(*np.full((3, 1, 3), np.nan))
    scorer = SCORERS["storyworld"]
    return scorer.score(StoryworldReadings([readings], nothing), [scenes], np.array([given]))


def comes_back(scenes):
    return scenes[2].place == scenes[0].place and all(len(s.actors) == 1 for s in scenes)


def test_a_place_that_was_rearranged_does_not_agree():
    scenes = find_story(back=comes_back)
    right = [seen(scene) for scene in scenes]
    moved = [*right[:2], seen(scenes[2], arrangement=(scenes[2].arrangement + 1) % 6)]
    assert score(scenes, right)["same_place"].value == 1
    assert score(scenes, moved)["same_place"].value == 0
    assert score(scenes, right)["same_place"].n == 1


def test_a_look_that_changes_does_not_agree():
    scenes = find_story(back=comes_back)
    right = [seen(scene) for scene in scenes]
    other = replace(right[1].actors[0], pattern="plain", second="")
    if right[1].actors[0].pattern == "plain":
        other = replace(other, pattern="rows", second="dark")
    changed = [right[0], seen(scenes[1], actors=(other,)), right[2]]
    unknown = [right[0], seen(scenes[1], actors=(replace(other, pattern=None),)), right[2]]
    for readings in (changed, unknown):
        scores = score(scenes, readings)
        assert scores["same_look"].value == scores["same_actor"].value == 0
        assert scores["body"].value == 1


def test_an_unseen_look_is_a_case_where_it_is_given():
    def wears_it(scenes):
        return scenes[0].actors[0].pattern == NEW_PATTERN

    scenes = find_story(back=comes_back, new=wears_it)
    right = [seen(scene) for scene in scenes]
    assert score(scenes, right)["new_look"].n == 0
    assert score(scenes, right, (True, True, False))["new_look"].n == 1


def test_what_belongs_to_another_scene_has_leaked():
    scenes = find_story(back=comes_back)
    right = [seen(scene) for scene in scenes]
    leaked = [right[0], seen(scenes[1], place=scenes[0].place), right[2]]
    scores = score(scenes, leaked)
    assert scores["leakage"].value == pytest.approx(1 / 3)
    assert scores["place"].value == pytest.approx(2 / 3)
    assert score(scenes, right)["leakage"].value == 0


def test_chance_is_that_of_two_draws():
    assert CHANCE["same_place"] == pytest.approx(1 / 6)
    assert CHANCE["same_look"] == pytest.approx(1 / 36 + 5 / 36 / 2)
