"""The build with a engine that needs no network; `test_sample` has it with a real one."""

import numpy as np
import pytest

from m2dit_jax.pipeline.build import StoryBuilder
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.errors import NotFinite
from m2dit_jax.utils.media import write_mp4
from tests.stories.fake_engine import FakeEngine

LETTERS = "abcdefghijkl"


def board(number=6, changed=None, **fields):
    """Scenes with prompts a, b, c ...; `changed` has other fields by scene."""
    scenes = [{"prompt": letter} | (changed or {}).get(i, {}) for i, letter in enumerate(LETTERS)]
    return {"scenes": scenes[:number], **fields}


@pytest.fixture
def build(tmp_path):
    """Builds a storyboard in a folder that stays; returns the outcomes and the frames."""

    def build(mapping, engine, folder="story", report=lambda progress: None):
        plan = plan_story(Storyboard.from_mapping(mapping, tmp_path), engine)
        builder = StoryBuilder(plan, engine, SceneStore(tmp_path / folder))
        outcomes = builder.build(report, lambda scene, frames: None)
        return outcomes, [builder.frames(outcomes[scene]) for scene in sorted(outcomes)]

    return build


def statuses(outcomes):
    return "".join(outcomes[scene].status[:2] + " " for scene in sorted(outcomes)).strip()


def same(a, b):
    return [bool(np.array_equal(x, y)) for x, y in zip(a, b, strict=True)]


def test_a_second_run_opens_no_network_and_finds_the_same(build):
    outcomes, frames = build(board(), FakeEngine())
    assert statuses(outcomes) == "ge ge ge ge ge ge"
    assert outcomes[4].group.context == (0, 3)
    again = FakeEngine()
    outcomes, kept = build(board(), again)
    assert statuses(outcomes) == "re re re re re re"
    assert again.log == [] and all(same(frames, kept))


def test_a_changed_prompt_changes_what_was_made_with_it_or_after_it(build):
    _, before = build(board(), FakeEngine())
    outcomes, after = build(board(changed={4: {"prompt": "z"}}), FakeEngine())
    assert statuses(outcomes) == "re re re re ge ge"
    assert same(before, after) == [True] * 4 + [False] * 2
    _, fresh = build(board(changed={4: {"prompt": "z"}}), FakeEngine(), folder="fresh")
    assert all(same(after, fresh))
    outcomes, back = build(board(), FakeEngine())  # nothing is lost by trying
    assert statuses(outcomes) == "re re re re re re" and all(same(before, back))


@pytest.mark.parametrize(
    "own",
    [{"seed": 3}, {"guidance_scale": 5.0}, {"negative_prompt": "y"}, {"frames": 3}],
)
def test_a_scenes_own_settings_count(build, own):
    _, before = build(board(), FakeEngine())
    outcomes, after = build(board(changed={5: own}), FakeEngine())
    assert statuses(outcomes) == "re re re re re ge"
    assert len(after[5]) == own.get("frames", 2)
    assert not np.array_equal(before[5], after[5])


@pytest.mark.parametrize(
    "field",
    [
        *({"seed": 1}, {"steps": 3}, {"sampler": "dpm"}, {"guidance_scale": 3.0}),
        *({"guidance_end": 0.5}, {"cache_tolerance": 0.1}, {"given_guidance_scale": 2.0}),
    ],
)
def test_settings_of_the_story_change_everything(build, field):
    build(board(), FakeEngine())
    outcomes, _ = build(board(**field), FakeEngine())
    assert statuses(outcomes) == "ge ge ge ge ge ge"


def test_frames_a_second_change_nothing_and_another_model_everything(build):
    build(board(), FakeEngine())
    assert statuses(build(board(fps=9.0), FakeEngine())[0]) == "re re re re re re"
    other = FakeEngine(fingerprint="other")
    assert statuses(build(board(), other)[0]) == "ge ge ge ge ge ge"


def test_an_interrupted_story_goes_on(build):
    class Interrupted(Exception):
        pass

    def interrupt(progress):
        if 4 in progress.at_work and progress.step == 1:
            raise Interrupted

    engine = FakeEngine()
    with pytest.raises(Interrupted):
        build(board(), engine, report=interrupt)
    assert engine.opened == ()  # nothing stays in memory
    outcomes, frames = build(board(), FakeEngine())
    assert statuses(outcomes) == "re re re re ge ge"
    assert all(same(frames, build(board(), FakeEngine(), folder="at once")[1]))


def test_one_network_is_open_at_a_time_and_each_once(build, tmp_path):
    write_mp4(tmp_path / "clip.mp4", np.full((2, 4, 4, 3), 90, np.uint8), 4)
    engine = FakeEngine(instant_decoder=False)
    open_at_once = []
    outcomes, _ = build(
        board(changed={0: {"video": "clip.mp4"}}),
        engine,
        report=lambda progress: open_at_once.append(len(engine.opened)),
    )
    assert statuses(outcomes) == "gi ge ge ge ge ge"
    assert max(open_at_once) == 1
    assert [name for name in engine.log if not name.startswith("decode ")] == [
        *("text encoder", "VAE", "transformer", "VAE")
    ]


def test_prompts_are_encoded_once(build):
    build(board(global_prompt="z"), engine := FakeEngine())
    assert sorted(engine.encoded) == ["", *"abcdef", "z"]
    build(board(global_prompt="z", seed=1), again := FakeEngine())
    assert again.encoded == []


def test_a_changed_clip_is_told_before_it_is_read_anew(build, tmp_path):
    mapping = board(changed={0: {"video": "clip.mp4"}}, checks=["saturation"])
    write_mp4(tmp_path / "clip.mp4", np.full((2, 4, 4, 3), 90, np.uint8), 4)
    build(mapping, FakeEngine())
    write_mp4(tmp_path / "clip.mp4", np.full((2, 4, 4, 3), 30, np.uint8), 4)
    plan = plan_story(Storyboard.from_mapping(mapping, tmp_path), FakeEngine())
    outlook = StoryBuilder(plan, FakeEngine(), SceneStore(tmp_path / "story")).outlook()
    assert statuses(outlook.outcomes) == "gi ge ge ge ge ge"
    outcomes, frames = build(mapping, FakeEngine())
    assert statuses(outcomes) == "gi ge ge ge ge ge"
    assert abs(int(frames[0].mean()) - 30) <= 1


def test_lost_frames_are_decoded_again(build, tmp_path):
    _, before = build(board(), FakeEngine(instant_decoder=False))
    for path in (tmp_path / "story").glob("*.frames.safetensors"):
        path.unlink()
    _, after = build(board(), engine := FakeEngine(instant_decoder=False))
    assert engine.log == ["VAE", *(f"decode scene {i}" for i in range(1, 7))]
    assert all(same(before, after))


def test_a_scene_that_fails_is_drawn_again_and_given_to_nobody(build, tmp_path):
    engine = FakeEngine()
    engine.spoil = {2: np.nan, 3: np.nan}  # the group of scene 4, twice
    outcomes, _ = build(board(retries=2, checks=["finite"]), engine)
    attempts = outcomes[3].attempts
    assert [attempt.verdict.passed for attempt in attempts] == [False, False, True]
    assert len({attempt.identity.key for attempt in attempts}) == 3
    assert not outcomes[3].failed and outcomes[4].group.context == (0, 3)
    mapping = board(retries=2, checks=["finite"])
    plan = plan_story(Storyboard.from_mapping(mapping), FakeEngine())
    outlook = StoryBuilder(plan, FakeEngine(), SceneStore(tmp_path / "story")).outlook()
    assert statuses(outlook.outcomes) == "re re re re re re"
    again = FakeEngine()  # what failed before is known to fail
    outcomes, _ = build(board(retries=2, checks=["finite"]), again)
    assert again.log == [] and len(outcomes[3].attempts) == 3


def test_a_scene_that_fails_to_the_end_stays_out_of_others(build):
    engine = FakeEngine()
    engine.spoil = {2: 1000.0, 3: 1000.0}  # all white
    outcomes, _ = build(board(retries=1, checks=["frozen"]), engine)
    assert outcomes[3].failed
    assert outcomes[4].group.context == (0, 2)
    assert [scene for scene in outcomes if outcomes[scene].failed] == [3]


@pytest.mark.parametrize("settings", [{}, {"retries": 1, "checks": ["finite"]}])
def test_a_scene_that_is_not_finite_to_the_end_ends_the_story(build, tmp_path, settings):
    engine = FakeEngine()
    engine.spoil = {2: np.nan, 3: np.nan}
    with pytest.raises(NotFinite, match="scene 4: generated latents: 8 of 8 values are not finite"):
        build(board(**settings), engine)
    made = [path for path in (tmp_path / "story").glob("*.safetensors") if ".text" not in path.name]
    assert len(made) == 2 * 3  # what was finished before: latents and frames of three scenes
    outcomes, _ = build(board(**settings), FakeEngine())
    assert statuses(outcomes) == "re re re ge ge ge"


def test_scenes_that_fail_among_others_are_redrawn_beside_them(build):
    """In a joint group only what failed is drawn again, with the others given."""
    engine = FakeEngine()
    mapping = board(3, retries=1, checks=["frozen"])
    mapping["scenes"][1]["frames"] = 1  # a single frame cannot be frozen
    engine.spoil = {1: 1000.0}  # all white
    outcomes, _ = build(mapping, engine)
    assert outcomes[1].group.new == (0, 1, 2)
    assert outcomes[0].group.new == outcomes[2].group.new == (0, 2)
    assert outcomes[0].group.context == (1,)


def test_the_outlook_is_what_then_happens(build, tmp_path):
    build(board(), FakeEngine())
    engine = FakeEngine()
    plan = plan_story(Storyboard.from_mapping(board(changed={4: {"prompt": "z"}})), engine)
    outlook = StoryBuilder(plan, engine, SceneStore(tmp_path / "story")).outlook()
    assert statuses(outlook.outcomes) == "re re re re ge ge" and engine.log == []
    outcomes, _ = build(board(changed={4: {"prompt": "z"}}), engine)
    assert {s: o.identity for s, o in outcomes.items()} == {
        s: o.identity for s, o in outlook.outcomes.items()
    }
