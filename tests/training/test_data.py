import json

import jax
import ml_dtypes
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.encoded import EncodedInfo, shard_name
from m2dit_jax.data.encoded_writing import finish_dataset, write_shard
from m2dit_jax.data.loader import unequal_lengths
from m2dit_jax.training.data import open_training_data
from m2dit_jax.training.run import prepare
from m2dit_jax.weights.latent_scale import find_scaling_factor, keep_scaling_factor
from tests.data.test_encoded import make_story

INFO = EncodedInfo("vae", "stories", 5, 32, 32, (2, 4, 4, 2), (8, 6), 0.7)


@pytest.fixture
def config(make_encoded_config, tmp_path):
    """A run on four stories of latents that are scaled by 0.7."""
    folder = tmp_path / "set"
    folder.mkdir()
    shards = [write_shard(folder / shard_name(0, 1), INFO, [make_story(INFO, 1, 2)] * 4)]
    empty = np.zeros(INFO.text_shape or (), ml_dtypes.bfloat16)
    statistics = {"size": {}, "fps": {}, "seconds": {}, "words": {}}
    finish_dataset(folder, INFO, {}, shards, [2] * 4, statistics, {"items": []}, empty)
    config = make_encoded_config()
    config.data.paths = str(folder)
    return config


def model_folder(path, factor):
    (path / "vae").mkdir(parents=True)
    (path / "vae/config.json").write_text(json.dumps({"scaling_factor": factor}))
    return path


def test_latents_of_another_scaling_factor_than_the_first_weights_are_refused(config, tmp_path):
    config.train.init_from = str(model_folder(tmp_path / "same", 0.7))
    assert open_training_data(build_recipe(config)).latent_scale == 0.7
    config.train.init_from = str(model_folder(tmp_path / "other", 1.1))
    with pytest.raises(ValueError, match=r"factor 0\.7, that of config\.train\.init_from .* 1\.1"):
        open_training_data(build_recipe(config))


def test_a_run_goes_on_with_latents_of_its_scaling_factor_only(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    keep_scaling_factor(workdir, 1.1)
    assert find_scaling_factor(workdir) == 1.1
    recipe = build_recipe(config)
    with pytest.raises(ValueError, match=r"factor 0\.7, the run in .* learnt from latents of 1\.1"):
        prepare(recipe.config, workdir)


def test_a_folder_that_tells_no_scaling_factor(tmp_path):
    assert find_scaling_factor(tmp_path) is None
    (tmp_path / "latents.json").write_text("{}")
    with pytest.raises(ValueError, match="latents.json: is damaged"):
        find_scaling_factor(tmp_path)


@pytest.mark.parametrize("world", ["shapes", "storyworld"])
def test_a_share_of_the_batches_has_pictures_all_kinds_of_which_are_compiled(tiny_config, world):
    tiny_config.train.image_probability, tiny_config.train.batch_size = 0.5, 2
    data = tiny_config.data
    data.source, data.scenes, data.text_length = world, 2, 64
    if world == "storyworld":
        data.frames, data.short_frames, data.size = 8, 4, 24
    loaded = open_training_data(build_recipe(tiny_config))
    kinds = {(batch.video.shape, frames) for batch, frames in loaded.batch_shapes}
    batches = loaded.batches(0, [0, 1])
    met = {
        (batch.video.shape, unequal_lengths(batch)) for batch in (next(batches) for _ in range(6))
    }
    assert met == kinds
    assert {shape[1] for shape, _ in kinds} == {2, 3}


def test_encoded_stories_have_the_first_frame_of_a_scene_before_them(config):
    config.train.image_probability, config.train.batch_size = 0.5, 2
    loaded = open_training_data(build_recipe(config))
    shapes = {(batch.mean.shape, frames) for batch, frames in loaded.batch_shapes}
    assert shapes == {((2, 2, 2, 4, 4, 2), None), ((2, 3, 2, 4, 4, 2), (1, 2, 2))}
    batches = loaded.batches(0, [0, 1])
    plain, pictured = next(batches), next(batches)
    assert unequal_lengths(plain) is None and unequal_lengths(pictured) == (1, 2, 2)
    for mean, logvar, texts in zip(*pictured[:3], strict=True):
        scene = next(s for s in (1, 2) if np.array_equal(texts[s], texts[0]))
        np.testing.assert_array_equal(mean[0, :1], mean[scene, :1])
        np.testing.assert_array_equal(logvar[0, :1], logvar[scene, :1])
        assert not mean[0, 1:].any()


@pytest.mark.slow  # two programs are compiled
def test_encoded_stories_with_pictures_are_trained_on(config, tmp_path):
    config.train.image_probability, config.train.batch_size = 0.5, 2
    run = prepare(build_recipe(config).config, tmp_path / "run")
    assert run is not None
    state, batches = run.first_state(), run.data.batches(0, [0, 1])
    for _ in range(2):
        state = run.train_step(state, run.seed_key, next(batches))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert int(state.step) == 2


def test_a_few_stories_of_one_actor_come_round_again(tiny_config):
    tiny_config.data.actor, tiny_config.data.stories = "white circle", 3
    recipe = build_recipe(tiny_config)
    batches = open_training_data(recipe).batches(0, range(tiny_config.train.batch_size))
    videos = np.concatenate([next(batches).video for _ in range(3)])
    assert len({video.tobytes() for video in videos}) == 3
    np.testing.assert_array_equal(videos[0], videos[3])
    [story] = open_training_data(recipe).held_out(1)
    assert story.captions[0].startswith("a white circle")
