"""A training of the Wan family from end to end, on drawn stories."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from configs import wan_a14b
from m2dit_jax import convert, sample, train
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.encoded import EncodedInfo, shard_name
from m2dit_jax.data.encoded_writing import finish_dataset, write_shard
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.pipeline.load import load
from m2dit_jax.training.first_state import check_init_from
from m2dit_jax.weights.released import ReleasedModel
from tests.data.test_encoded import make_story
from tests.test_sample import PROMPTS, ROOT
from tests.two_transformers import two_transformers

pytestmark = pytest.mark.e2e

WAN = [
    *("--config.model.family=wan", "--config.model.hidden=24", "--config.model.heads=1"),
    *("--config.model.head_dim=16", "--config.model.layers=1", "--config.model.time_dim=16"),
    "--config.model.added_positions=False",
    *("--config.diffusion.kind=flow", "--config.diffusion.shift=3", "--config.train.steps=2"),
    *("--config.diffusion.prediction=v", "--config.sample.sampler=unipc"),
    *("--config.train.warmup_steps=0", "--config.train.batch_size=2", "--config.sample.steps=3"),
    "--config.train.eval_every=0",
]


@pytest.mark.slow  # the family through all of training, and sampled from the run
def test_a_run_of_the_family_is_trained_and_sampled(tmp_path, capsys):
    flags = [f"--config={ROOT}/configs/base.py", *WAN, f"--workdir={tmp_path / 'run'}"]
    assert train.main(flags) == 0, capsys.readouterr().err
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    out = tmp_path / "out"
    status = sample.main([f"--checkpoint={tmp_path / 'run'}", *prompts, f"--output={out}"])
    assert status == 0, capsys.readouterr().err
    assert json.loads((out / "story.json").read_text())["storyboard"]["sampler"] == "unipc"


def test_positions_that_the_family_does_not_have_are_refused(tmp_path, capsys):
    flags = [f"--config={ROOT}/configs/base.py", f"--workdir={tmp_path / 'run'}"]
    assert train.main([*flags, "--config.model.family=wan"]) == 2
    assert "the family wan has rotary positions" in capsys.readouterr().err


SIZE = (5, 16, 32)
A14B = {
    **{"model.layers": 2, "model.heads": 2, "model.head_dim": 32, "model.hidden": 96},
    **{"model.time_dim": 64, "data.scenes": 2, "data.frames": 5, "data.height": 16},
    **{"data.width": 32, "data.channels": 4, "data.text_dim": 32, "train.steps": 2},
    **{"train.batch_size": 2, "train.warmup_steps": 1, "train.learning_rate": 1e-2},
    **{"mesh.fsdp": 1, "train.log_every": 1},
}


@pytest.fixture(scope="module")
def a14b(tmp_path_factory):
    """A folder with model/, a tiny A14B, and data/, stories of its latents."""
    folder = tmp_path_factory.mktemp("a14b")
    model = ReleasedModel(two_transformers(folder / "model"))
    shapes = tuple(model.latent_shape(*SIZE)), (model.text_length, 32)
    info = EncodedInfo("vae", "stories", *SIZE, *shapes, model.vae_config.scaling_factor)
    (folder / "data").mkdir()
    name = folder / "data" / shard_name(0, 1)
    story: Any = make_story(info, 1, 2)
    for array in ("mean", "logvar", "text_embeds"):
        story[array] = (story[array] / 256).astype(story[array].dtype)
    shards = [write_shard(name, info, [story] * 4)]
    statistics = {"size": {}, "fps": {}, "seconds": {}, "words": {}}
    empty = np.zeros(shapes[1], ml_dtypes.bfloat16)
    finish_dataset(folder / "data", info, {}, shards, [2] * 4, statistics, {"items": []}, empty)
    return folder


def expert(folder, name, **changes):
    """The workdir of a run that trains one of the two transformers."""
    fields = A14B | {"train.expert": name, "train.init_from": folder / "model"} | changes
    fields |= {"data.paths": folder / "data"}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    workdir = folder / f"run_{name}"
    assert train.main([f"--config={ROOT}/configs/wan_a14b.py", *flags, f"--workdir={workdir}"]) == 0
    return workdir


def sampled(checkpoint, lora=()):
    """The latents that a story of two scenes ends with."""
    pipe = load(checkpoint, lora=lora)
    steps = pipe.options.replace(steps=4, guidance_scale_2=3.0).table(pipe.schedule, 2)
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (1, 2, *pipe.codec.latent_shape(*SIZE))
    texts = [jax.random.normal(key, (1, 2, 512, 32)) for key in keys[:2]]
    story = Conditions(jnp.zeros(shape), jnp.zeros((1, 2), bool), *texts)
    noise, none = jax.random.normal(keys[2], shape), jnp.zeros(shape)
    *_, made = pipe.denoise(steps, story, noise, lambda number: none)
    return np.asarray(made.latents)


def bytes_of(folder):
    return (folder / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.mark.slow  # two trainings, and the ways from them to latents
def test_each_of_two_transformers_is_trained_alone_and_sampled_beside_the_other(a14b, capsys):
    model, plain = a14b / "model", sampled(a14b / "model")
    low = expert(a14b, "low_noise")
    assert convert.main([f"--source={low}", f"--output={a14b / 'low'}"]) == 0
    assert bytes_of(a14b / "low/transformer") == bytes_of(model / "transformer")
    assert bytes_of(a14b / "low/transformer_2") != bytes_of(model / "transformer_2")
    index = "model_index.json"
    assert (a14b / "low" / index).read_bytes() == (model / index).read_bytes()
    made = sampled(low)
    np.testing.assert_allclose(made, sampled(a14b / "low"), atol=1e-5)
    assert np.abs(made - plain).max() > 1e-3

    high = expert(a14b, "high_noise", **{"train.lora.rank": 2, "train.init_from": a14b / "low"})
    assert convert.main([f"--source={high}", "--to=lora", f"--output={a14b / 'lora'}"]) == 0
    both = sampled(high)
    choice = f"high_noise={a14b / 'lora'}"
    np.testing.assert_allclose(sampled(a14b / "low", [choice]), both, atol=1e-5)
    assert np.abs(both - made).max() > 1e-3
    assert load(high).defaults.guidance_scale_2 == 3.0
    capsys.readouterr()

    config = wan_a14b.get_config()
    config.update_from_flattened_dict(A14B | {"train.init_from": str(low)})
    with pytest.raises(ValueError, match="expert is 'high_noise', that of the run 'low_noise'"):
        check_init_from(build_recipe(config))


def test_a_folder_of_two_transformers_needs_an_expert_and_its_boundary(a14b):
    config = wan_a14b.get_config()
    config.update_from_flattened_dict(A14B | {"train.init_from": str(a14b / "model")})
    assert "model/transformer" in check_init_from(build_recipe(config))
    config.diffusion.boundary = 0.9
    with pytest.raises(ValueError, match="boundary is 0.9, that of the folder 0.875"):
        check_init_from(build_recipe(config))
    config.diffusion.boundary, config.train.expert = 0.0, ""
    with pytest.raises(ValueError, match="(?s)0.875; .*config.train.expert says which is trained"):
        check_init_from(build_recipe(config))
