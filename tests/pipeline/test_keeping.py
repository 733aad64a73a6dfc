"""Scenes that are kept, and their takes, in builds with an engine that needs no network."""

import numpy as np
import pytest

from m2dit_jax.pipeline.build import StoryBuilder
from m2dit_jax.stories.explain import explain
from m2dit_jax.stories.history import read_build, read_history, read_takes, write_build
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.media import write_mp4
from tests.stories.fake_engine import FakeEngine

KEEP = {"keep": True}


class Folder:
    """A story's folder; scenes are letters, or mappings with a prompt."""

    def __init__(self, path):
        self.path, self.store = path, SceneStore(path / "scenes")

    def builder(self, scenes, engine=None, **settings):
        mapping = {"scenes": list(scenes), **settings}
        plan = plan_story(Storyboard.from_mapping(mapping, self.path), engine or FakeEngine())
        return StoryBuilder(plan, engine or FakeEngine(), self.store, read_history(self.path))

    def build(self, scenes, engine=None, **settings):
        """Statuses and frames of the scenes."""
        builder = self.builder(scenes, engine, **settings)
        handed = []
        outcomes = builder.build(lambda progress: None, lambda scene, frames: handed.append(scene))
        inputs = {scene: outcome.identity.inputs for scene, outcome in outcomes.items()}
        write_build(self.path, inputs)
        made = [scene for scene in sorted(outcomes) if outcomes[scene].status != "given"]
        assert sorted(handed) == made  # each is written once
        told = " ".join(outcomes[scene].status[:2] for scene in sorted(outcomes))
        return told, [builder.frames(outcomes[scene]) for scene in sorted(outcomes)]

    def explain(self, scenes, **settings):
        outlook = self.builder(scenes, **settings).outlook()
        return explain(outlook, read_build(self.path))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def scene(prompt, **fields):
    return {"prompt": prompt, **fields}


def same(a, b):
    return [bool(np.array_equal(x, y)) for x, y in zip(a, b, strict=True)]


def test_another_take_is_another_scene_and_going_back_finds_the_first(folder):
    _, first = folder.build("abcdef")
    taken = [*"abcde", scene("f", take=1)]
    assert folder.explain(taken)[4:] == [
        *("scene 5: kept", "scene 6: to be made anew: its take: 0 -> 1")
    ]
    told, second = folder.build(taken)
    assert told == "re re re re re ge" and same(first, second) == [True] * 5 + [False]
    assert list(read_takes(folder.path, 5, "f")) == [0, 1]
    told, third = folder.build([*"abcde", scene("f", take=2)])
    assert told == "re re re re re ge" and not np.array_equal(second[5], third[5])
    engine = FakeEngine()
    for mapping, frames in (("abcdef", first), (taken, second)):
        told, again = folder.build(mapping, engine)
        assert told == "re re re re re re" and all(same(frames, again))
    assert engine.log == []


def test_one_of_three_is_replaced_and_the_others_stay(folder):
    _, first = folder.build("abc")
    board = [scene("a", **KEEP), scene("b", take=1), scene("c", **KEEP)]
    assert folder.explain(board)[0] == "scene 1: kept, as keep asks"
    assert "its take: 0 -> 1" in folder.explain(board)[1]
    told, second = folder.build(board)
    assert told == "ke ge ke" and same(first, second) == [True, False, True]
    assert folder.build(board, engine := FakeEngine())[0] == "ke re ke" and engine.log == []
    board[1] = scene("b")  # back to the take that was made together with the others
    told, third = folder.build(board, engine)
    assert told == "ke re ke" and all(same(first, third)) and engine.log == []
    board[1] = scene("z")
    told, _ = folder.build(board)
    assert told == "ke ge ke"


def test_a_kept_scene_stays_whatever_changes_and_is_given_to_the_others(folder):
    _, first = folder.build("abc")
    board = [scene("z"), scene("b", **KEEP), scene("c")]
    told, second = folder.build(board)
    assert told == "ge ke ge" and same(first, second) == [False, True, False]
    board = [scene("z"), scene("b", guidance_scale=4.0, **KEEP), scene("c")]
    assert folder.explain(board, steps=3)[1] == (
        "scene 2: kept, as keep asks; without it: steps: 2 -> 3; its guidance_scale: 2.0 -> 4.0"
    )
    told, third = folder.build(board, steps=3)
    assert told == "ge ke ge" and same(first, third) == [False, True, False]


@pytest.mark.parametrize("kept", range(6))
def test_to_keep_a_scene_makes_no_other_one_anew(folder, kept):
    _, first = folder.build("abcdef", retries=1, checks=["finite"])
    board = [scene(p, **(KEEP if i == kept else {})) for i, p in enumerate("abcdef")]
    told, second = folder.build(board, engine := FakeEngine(), retries=1, checks=["finite"])
    assert set(told.split()) == {"ke", "re"} and all(same(first, second)) and engine.log == []


def test_scenes_that_were_drawn_again_beside_others_stand_with_them(folder):
    engine = FakeEngine()
    engine.spoil = {1: np.nan}
    _, first = folder.build("abc", engine, retries=1, checks=["finite"])
    told, second = folder.build(
        [scene("a", **KEEP), *"bc"], FakeEngine(), retries=1, checks=["finite"]
    )
    assert told == "ke re re" and all(same(first, second))


def test_a_kept_scene_may_move_and_all_may_be_kept(folder):
    _, first = folder.build("abc")
    board = [scene("c", **KEEP), scene("a", **KEEP), scene("b", **KEEP)]
    told, moved = folder.build(board, engine := FakeEngine())
    assert told == "ke ke ke" and engine.log == []
    assert all(same(moved, [first[2], first[0], first[1]]))


def test_a_take_may_be_kept_that_is_not_the_last_one(folder):
    _, first = folder.build("ab")
    _, second = folder.build(["a", scene("b", take=1)])
    _, kept = folder.build(["z", scene("b", **KEEP)])
    assert np.array_equal(kept[1], first[1])
    _, kept = folder.build(["y", scene("b", take=1, **KEEP)])
    assert np.array_equal(kept[1], second[1])


@pytest.mark.parametrize(
    ("own", "settings", "message"),
    [
        ({"prompt": "z"}, {}, r"take 0 of this scene was never made .*none with its prompt"),
        ({"take": 3}, {}, r"take 3 of this scene was never made in this folder \(takes 0 of it\)"),
        ({"frames": 3}, {}, "made with 2 frames of 4 x 4; needs these, found 3 frames of 4 x 4"),
        ({}, {"height": 8}, "made with 2 frames of 4 x 4; needs these, found 2 frames of 8 x 4"),
        ({}, {"engine": FakeEngine(fingerprint="x")}, "it was made by another model; needs its"),
    ],
)
def test_what_cannot_be_kept_is_named(folder, own, settings, message):
    folder.build("ab")
    with pytest.raises(StoryboardError, match=rf"scenes\[1\].keep: found true, but .*{message}"):
        folder.builder(["a", scene("b", **KEEP) | own], **settings)


def test_a_lost_file_cannot_be_kept(folder):
    folder.build("ab")
    for path in (folder.path / "scenes").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(StoryboardError, match=r"scenes\[0\].keep: .*its file is lost or damaged"):
        folder.builder([scene("a", **KEEP), "b"])


def test_beside_a_changed_clip_what_depends_on_it_is_made_anew(folder):
    write_mp4(folder.path / "clip.mp4", np.full((2, 4, 4, 3), 90, np.uint8), 4)
    board = [scene("a", video="clip.mp4"), "b", "c", "d"]
    folder.build(board)
    board[3] = scene("d", **KEEP)
    assert folder.build(board)[0] == "gi re re ke"
    write_mp4(folder.path / "clip.mp4", np.full((2, 4, 4, 3), 30, np.uint8), 4)
    assert folder.build(board)[0] == "gi ge ge ke"


def test_a_scene_that_stands_but_fails_the_gate_is_given_to_nobody(folder):
    engine = FakeEngine()
    engine.spoil = {2: 500.0}  # the fourth scene is white all over
    folder.build("abcde", engine)
    builder = folder.builder([scene("a", **KEEP), *"bcdz"], checks=["frozen"])
    outcomes = builder.build(lambda progress: None, lambda scene, frames: None)
    assert [outcomes[scene].failed for scene in range(4)] == [False, False, False, True]
    assert outcomes[0].attempts == [] and outcomes[4].group.context == (0, 2)
