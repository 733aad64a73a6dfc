"""Pictures in a storyboard: as references that all scenes see, and as first frames."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from m2dit_jax.pipeline.codecs import PixelCodec
from m2dit_jax.pipeline.load import load
from m2dit_jax.stories.noise import scene_key, scene_seed
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.media import video_frames
from m2dit_jax.utils.options import OptionError
from tests.engines import random_engine
from tests.stories.fake_engine import FakeEngine
from tests.story_building import build_scenes

GREY = np.full((8, 8, 3), 90, np.uint8)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "fox.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)).save(path)
    return path


def story(*pictures, scenes=4, **settings):
    prompts = [{"prompt": f"scene {n}"} for n in range(scenes)]
    return Storyboard.from_mapping({"scenes": [*pictures, *prompts], **settings})


def reference(picture, **fields):
    return {"prompt": "a fox", "image": str(picture), **fields}


def test_a_reference_is_given_to_every_scene_and_no_part_of_the_video(picture, tmp_path):
    from m2dit_jax.pipeline.build import StoryBuilder
    from m2dit_jax.pipeline.story import Story
    from m2dit_jax.stories.store import MemoryStore

    engine, board = FakeEngine(window=2), story(reference(picture))
    plan = plan_story(board, engine)
    assert plan.frames(0) == 1 and "image_probability" in plan.notes[0]
    store = MemoryStore()
    outcomes = StoryBuilder(plan, engine, store).build(lambda p: None, lambda s, f: None)
    groups = [outcome.group for outcome in outcomes.values() if outcome.group]
    assert [group.context[0] for group in groups] == [0] * 4
    made = Story(plan, outcomes, store, {})
    folder = made.save(tmp_path / "out")
    assert len([*video_frames(folder / "story.mp4")]) == 4 * 2
    record = json.loads((folder / "story.json").read_text())
    assert [scene["frames"] for scene in record["scenes"]] == [1, 2, 2, 2, 2]
    again = Storyboard.read(folder / "storyboard.json")
    assert again.scenes[0].image == picture and again.references == 1


def test_another_picture_makes_another_story(picture, tmp_path):
    first = build_scenes(FakeEngine(), story(reference(picture)), tmp_path / "a")
    assert len(first) == 5 and first[0].shape == (1, 4, 4, 3)
    Image.fromarray(GREY).save(picture)
    second = build_scenes(FakeEngine(), story(reference(picture)), tmp_path / "a")
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


def test_a_first_frame_is_part_of_what_its_scene_depends_on(picture, tmp_path):
    engine = FakeEngine()
    board = story({**reference(picture), "use": "first_frame"})
    plan = plan_story(board, engine)
    assert "put in as the first frame" in plan.notes[0] and not board.scenes[0].given
    made = build_scenes(engine, board, tmp_path)
    assert [len(frames) for frames in made] == [2] * 5
    groups = engine.groups
    build_scenes(engine, board, tmp_path)
    assert engine.groups == groups  # all is there
    Image.fromarray(GREY).save(picture)
    build_scenes(engine, board, tmp_path)
    assert engine.groups > groups


def test_a_model_that_learnt_first_frames_is_told_of_them(picture, monkeypatch, tmp_path):
    engine, told = FakeEngine(), []
    denoise = engine.denoise

    def remember(steps, conditions, *rest):
        told.append((conditions.held, conditions.known))
        return denoise(steps, conditions, *rest)

    monkeypatch.setattr(engine, "denoise", remember)
    board = story({**reference(picture), "use": "first_frame"}, scenes=1)
    build_scenes(engine, board, tmp_path / "as_others")
    engine.facts = replace(engine.facts, clean_first_frame=True)
    assert not plan_story(board, engine).notes
    build_scenes(engine, board, tmp_path / "learnt")
    (nothing, known), (held, nothing_more) = told
    assert nothing is None and nothing_more is None
    np.testing.assert_array_equal(held, known)
    assert known[0, 0].any() and not known[0, 1].any()


@pytest.fixture(scope="module")
def engine(make_tiny_config):
    return random_engine(make_tiny_config(), scale=0.1)


def test_a_model_makes_a_scene_from_its_first_frame(engine):
    height, width = engine.defaults.height, engine.defaults.width
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    scenes = [{"prompt": "a red cross moves up on gray"}, {"prompt": "it moves left on navy"}]
    plain = engine(Storyboard.from_mapping({"scenes": scenes, "steps": 3}))
    scenes[1] |= {"image": pixels, "use": "first_frame"}
    made = engine(Storyboard(scenes=tuple(scenes), steps=3))
    assert np.abs(made.frames[1][0].astype(int) - pixels).max() <= 1
    assert (made.frames[0] != plain.frames[0]).any()  # it sees what the other begins with


def test_a_model_sees_a_reference(engine):
    scenes = [{"prompt": "it moves up on gray"}, {"prompt": "it moves left on navy"}]
    made = [
        engine(Storyboard(scenes=({"prompt": "it", "image": picture}, *scenes), steps=2))
        for picture in (GREY, GREY + 100)
    ]
    assert [len(frames) for frames in made[0].frames] == [1, *[engine.defaults.frames] * 2]
    assert (made[0].frames[1] != made[1].frames[1]).any()
    longer = engine.extend(made[0], ["it moves down on white"], steps=2)
    assert longer.storyboard.references == 1 and len(longer.frames) == 4


def test_of_pixels_a_picture_fills_a_patch(engine):
    codec = PixelCodec(lambda frames, height, width: None, patch=3)
    key = jax.random.split(jax.random.key(0), 1)
    assert codec.latent_shape(1, 8, 8) == (3, 8, 8, 3)
    latents = np.asarray(codec.encode(engine.networks, GREY[None, None], key))
    assert latents.shape == (1, 3, 8, 8, 3)
    np.testing.assert_array_equal(codec.decode(engine.networks, latents, 1, "")[0, 0], GREY)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"video": "clip.mp4"}, "image.*without video"),
        ({"use": "style"}, "use.*reference"),
        ({"frames": 5}, "frames.*single picture"),
        ({"keep": True}, "keep.*no reference"),
        ({"image": "none.png"}, "image.*readable picture"),
    ],
)
def test_what_cannot_be_is_named(fields, problem, picture):
    with pytest.raises(StoryboardError, match=problem):
        story(reference(picture) | fields)


def test_references_stand_before_all_scenes(picture):
    with pytest.raises(OptionError, match="scene 2 is a reference after others"):
        Storyboard(scenes=({"prompt": "a"}, reference(picture)))
    with pytest.raises(OptionError, match="all 1 are given"):
        Storyboard(scenes=(reference(picture),))
    with pytest.raises(OptionError, match="with an image"):
        Storyboard(scenes=({"prompt": "a", "use": "first_frame"},))


def test_a_picture_in_memory_is_written_beside_the_story(tmp_path, engine):
    scenes = ({"prompt": "it", "image": GREY}, {"prompt": "it moves up on gray"})
    made = engine(Storyboard(scenes=scenes, steps=1))
    folder = made.save(tmp_path)
    again = Storyboard.read(folder / "storyboard.json")
    with Image.open(again.scenes[0].image) as image:
        np.testing.assert_array_equal(np.asarray(image), GREY)


def test_a_released_model_takes_pictures_through_its_vae(golden):
    pipe = load(golden / "pipe_5b", dtype="float32")
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    scenes = (
        {"prompt": "a cat", "image": pixels},
        {"prompt": "It runs.", "image": pixels, "use": "first_frame"},
    )
    said = []
    pipe.networks.say = said.append
    made = pipe(Storyboard(scenes=scenes, frames=5, height=32, width=32, steps=2))
    assert [len(frames) for frames in made.frames] == [1, 5]
    assert sum("trained" in line for line in said) == 2
    reference, scene = made.latents(0), made.latents(1)
    assert reference is not None and scene is not None
    assert len(reference) == 1 and len(scene) == 2
    with pipe.networks.session():
        key = scene_key(scene_seed(0, 1, None))
        first = pipe.encode_first(pixels[None], 5, key)
        np.testing.assert_allclose(first, pipe.encode_clip(pixels[None], key), atol=1e-6)
    np.testing.assert_allclose(scene[:1], first, atol=1e-4)
