"""The front door: a pipeline is loaded and called, and all that sample agree with it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import m2dit_jax
from m2dit_jax import evaluate, sample, train
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.evaluation.accuracy import sample_held_out
from m2dit_jax.evaluation.long_stories import sample_long_stories
from m2dit_jax.pipeline.load import load, of_pixels_run, run_options
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.stories.windows import Windows
from m2dit_jax.stories.yaml import StoryboardError
from tests.engines import random_engine, random_params

STEPS = 3


@pytest.fixture(scope="module")
def engine(make_tiny_config):
    """Every step of an untrained model makes pixels beyond their range, which hides differences."""
    return random_engine(make_tiny_config(), scale=0.1)


@pytest.fixture(scope="module")
def story(engine):
    """A held-out story: its captions and video."""
    data = engine.trained.recipe.config.data
    return ShapesSource(7, data.scenes, data.frames, data.size, True, 2)[1]


def apart(a, b):
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_one_by_one_and_in_a_batch_a_story_has_the_same_frames(engine, story, sampler):
    made = engine(story["captions"], seed=8, steps=STEPS, sampler=sampler)
    options = run_options(engine.trained.recipe).replace(sampler=sampler, steps=STEPS)
    batches = sample_held_out(
        engine, num_stories=2, extension=False, seed=7, options=options, batch_size=2
    )
    in_batch = next(batches)
    assert [scene.caption for scene in in_batch.stories[1]] == story["captions"]
    assert apart(np.stack(made.frames[:]), in_batch.video[1]) <= 1
    other = engine(story["captions"], seed=9, steps=STEPS, sampler=sampler)
    assert apart(np.stack(made.frames[:]), np.stack(other.frames[:])) > 30


def test_a_given_scene_is_the_same_to_both(engine, story, tmp_path):
    from m2dit_jax.utils.media import read_clip, write_mp4

    write_mp4(tmp_path / "clip.mp4", story["video"][0], 4)
    clip = read_clip(tmp_path / "clip.mp4", *story["video"].shape[1:4])
    scenes = [{"prompt": story["captions"][0], "video": "clip.mp4"}]
    scenes.append({"prompt": story["captions"][1]})
    for noise_given in (False, True):
        settings = {"seed": 8, "steps": STEPS, "noise_given": noise_given}
        board = Storyboard.from_mapping({"scenes": scenes, **settings}, tmp_path)
        made = engine(board)
        batch = engine.sample_many(
            [story["captions"]],
            [8],
            options=run_options(engine.trained.recipe).replace(steps=STEPS),
            clips=np.stack([clip, np.zeros_like(clip)])[None],
            given=np.array([[True, False]]),
            noise_clips=noise_given,
        )
        assert apart(made.frames[1], batch.video[0, 1]) <= 1
        np.testing.assert_array_equal(made.frames[0], clip)


def test_long_stories_side_by_side_are_those_of_a_call(engine):
    source = WORLDS["shapes"].open(3, [(2,) * 4], 8, True, 2)
    stories = [source[index] for index in range(2)]
    options = run_options(engine.trained.recipe).replace(steps=STEPS)
    video = sample_long_stories(engine, stories, Windows(2, 1, False), seed=5, options=options)
    alone = engine(
        stories[1].captions,
        seed=6,
        steps=STEPS,
        guidance_scale=2.0,
        window=2,
        new_scenes=1,
        anchor=False,
    )
    # Each window rounds what it hands on, which may go either way.
    assert apart(np.stack(alone.frames[:]), video[1]) <= 3


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tiny_flags):
    folder = tmp_path_factory.mktemp("run")
    flags = ["--config.train.steps=4", "--config.train.eval_every=4", "--config.sample.steps=2"]
    assert train.main([*tiny_flags, *flags, f"--workdir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_the_command_the_call_the_preview_and_the_evaluation_agree(
    workdir, tmp_path, make_tiny_config
):
    """The four ways to frames, on one checkpoint."""
    pipe = m2dit_jax.load(workdir)
    assert pipe.trained is not None
    data = pipe.trained.recipe.config.data
    item = ShapesSource(0, data.scenes, data.frames, data.size, True, 1)[0]
    called = np.stack(pipe(item["captions"], seed=0).frames[:])

    board = tmp_path / "story.yaml"
    board.write_text(json.dumps({"scenes": [{"prompt": c} for c in item["captions"]]}))
    flags = [f"--checkpoint={workdir}", f"--storyboard={board}", f"--output={tmp_path}/out"]
    assert sample.main(flags) == 0
    record = json.loads((tmp_path / "out" / "story.json").read_text())
    assert record["frames_sha256"] == pipe(item["captions"], seed=0).digest

    (batch,) = sample_held_out(pipe, num_stories=1, extension=False, seed=0)
    assert apart(batch.video[0], called) <= 1

    from m2dit_jax.weights.run_folder import find_weights

    params = find_weights(workdir).load()
    preview = of_pixels_run(pipe.trained.recipe, lambda: params, step=4)
    (shown,) = sample_held_out(preview, num_stories=1, extension=False, seed=0)
    np.testing.assert_array_equal(shown.video, batch.video)


def test_a_story_is_saved_as_the_command_writes_it_and_goes_on_from_there(engine, tmp_path):
    prompts = ["a red cross moves left on gray", "it moves up on navy"]
    story = engine(prompts, seed=1, steps=2)
    assert story.frames[1].shape == (2, 8, 8, 3) and story.frames[1].dtype == np.uint8
    np.testing.assert_array_equal(story.frames[-1], story.frames[1])
    story.save(tmp_path / "a")
    direct = engine(prompts, seed=1, steps=2, folder=tmp_path / "b")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {path.name for path in (tmp_path / "b").iterdir()}
    assert {"story.mp4", "index.html", "story.json", "storyboard.json"} <= names
    records = [json.loads((tmp_path / f / "story.json").read_text()) for f in "ab"]
    assert records[0]["frames_sha256"] == records[1]["frames_sha256"] == direct.digest
    steps = []
    again = engine(prompts, seed=1, steps=2, folder=tmp_path / "a", on_step=steps.append)
    assert again.digest == story.digest
    assert all(progress.step == 0 for progress in steps)  # nothing was sampled
    assert "<video" in story._repr_html_() and "it moves up on navy" in story._repr_html_()
    assert "2 scenes" in repr(story)


def test_options_are_those_of_a_storyboard_with_its_checks(engine):
    with pytest.raises(StoryboardError, match="steps"):
        engine(["a red cross moves left on gray"], steps=0)
    with pytest.raises(StoryboardError, match="guidence_scale.*guidance_scale"):
        engine(["a red cross moves left on gray"], guidence_scale=2.0)
    with pytest.raises(TypeError, match="list of prompts"):
        engine("a red cross moves left on gray")


@pytest.mark.slow
def test_the_dtype_holds_for_every_network(make_tiny_config):
    config = make_tiny_config()
    recipe = build_recipe(config)
    params = random_params(recipe)
    for dtype in ("float32", "bfloat16"):
        pipe = of_pixels_run(recipe, lambda: params, step=0, dtype=dtype)
        for name in ("text encoder", "transformer"):
            leaves = jax.tree.leaves(pipe.networks.get(name).params)
            assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}, name
        made = pipe(["a red cross moves left on gray"] * 2, steps=2)
        assert np.isfinite(made.latents(1)).all()


def test_what_is_no_model_is_refused_with_its_name(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="dtype='int8': needs one of 'float32'"):
        load(tmp_path, dtype="int8")
    assert evaluate.main([f"--checkpoint={tmp_path}"]) == 2


@pytest.mark.slow
def test_a_story_is_extended_from_its_latents(engine, tmp_path, monkeypatch):
    first, second = "a red cross moves left on gray", "it moves up on navy"
    board = Storyboard(scenes=(Scene(prompt=first), Scene(prompt=second, take=1)), seed=1, steps=2)
    engine(board, folder=tmp_path / "kept")
    second_kept = board.scenes[1].replace(keep=True)
    story = engine(board.replace(scenes=(board.scenes[0], second_kept)), folder=tmp_path / "kept")
    longer = engine.extend(story, ["it moves right on white"], window=3)
    assert len(longer.frames) == 3
    for scene in range(2):
        np.testing.assert_array_equal(longer.frames[scene], story.frames[scene])
        np.testing.assert_array_equal(longer.latents(scene), story.latents(scene))
    assert longer.settings.steps == 2 and longer.storyboard.given == (True, True, False)
    # As by hand: the same scenes given, the new one drawn by the same seed and place.
    batch = engine.sample_many(
        [longer.prompts],
        [1],
        options=run_options(engine.trained.recipe).replace(steps=2),
        clips=np.stack([*story.frames, np.zeros_like(story.frames[0])])[None],
        given=np.array([[True, True, False]]),
    )
    assert apart(longer.frames[2], batch.video[0, 2]) <= 1
    longer.save(tmp_path)
    record = json.loads((tmp_path / "storyboard.json").read_text())
    assert record["scenes"][0]["video"] == str(tmp_path / "scene_1.mp4")
    monkeypatch.setattr(type(engine), "encode_clip", lambda *_: pytest.fail("encoded anew"))
    engine.extend(longer, ["it moves down on olive"], window=4)
