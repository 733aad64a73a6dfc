import json

import ml_dtypes
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.encoded import EncodedInfo, finish_dataset, shard_name, write_shard
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
