"""Adapters trained, gone on with, sampled, converted: the commands one after another."""

import json
import shutil

import jax
import numpy as np
import pytest

import m2dit_jax as m2
from m2dit_jax import convert, train
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.evaluation.adapters import open_base
from m2dit_jax.models.lora import split_adapters
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.training import checkpoints
from m2dit_jax.training.first_state import abstract_params, state_shapes
from m2dit_jax.training.frozen import find_base, frozen_shapes
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.mapping import flatten
from tests.engines import random_params

PROMPTS = ["a red cross moves left on gray", "it moves up on navy"]
LORA = {
    "train.optimizer": "adamw",
    "train.learning_rate": 0.05,
    "train.warmup_steps": 0,
    "train.ema_decay": 0.0,
    "train.eval_every": 0,
    "train.lora.rank": 2,
    "train.lora.alpha": 4.0,
    "train.lora.dropout": 0.25,
}


def adapting(config, base):
    config.update_from_flattened_dict(LORA | {"train.init_from": str(base)})
    return config


def last_scene(story):
    latents = story.latents(1)
    assert latents is not None
    return latents


def save_run(folder, config, step=7):
    """A run of one checkpoint, whose weights make other pictures of other prompts."""
    recipe = build_recipe(config)
    optimizer = make_optimizer(recipe.config.train, recipe.config.trains_text_encoder)
    state = TrainState.create(random_params(recipe), optimizer, ema_decay=0.0)
    manager = checkpoints.open_manager(folder, keep=1)
    checkpoints.save(manager, state._replace(step=jax.numpy.int32(step)), recipe.config)
    manager.close()


@pytest.fixture(scope="module")
def base(make_tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_run(folder, make_tiny_config())
    return folder


@pytest.fixture(scope="module")
def flags(base, tiny_flags):
    values = LORA | {"train.init_from": base, "train.checkpoint_every": 2, "train.steps": 4}
    return [*tiny_flags, *(f"--config.{name}={value}" for name, value in values.items())]


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("adapters")
    assert not train.main([*flags, f"--workdir={workdir}"])
    return workdir


def test_only_adapters_are_trained_and_kept(base, tiny_config):
    recipe = build_recipe(adapting(tiny_config, base))
    optimizer = make_optimizer(recipe.config.train, recipe.config.trains_text_encoder)
    state = state_shapes(recipe, optimizer)
    whole = jax.eval_shape(recipe.init_params, jax.random.key(0))
    own, adapters = split_adapters(whole)
    assert flatten(state.params).keys() == flatten(adapters).keys()
    assert flatten(abstract_params(recipe)).keys() == flatten(own).keys()
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * sum(x.size for x in jax.tree.leaves(adapters))


def test_the_base_lies_in_the_dtype_asked_for(base, tiny_config):
    adapting(tiny_config, base).train.lora.base_dtype = "bfloat16"
    recipe = build_recipe(tiny_config)
    mesh = make_mesh(tiny_config.mesh.to_dict())
    loaded = find_base(recipe).load(frozen_shapes(recipe, mesh))
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {jax.numpy.dtype("bfloat16")}


def test_a_run_without_a_base_or_with_another_optimizer_is_refused(base, tiny_config):
    adapting(tiny_config, base).train.init_from = ""
    tiny_config.train.optimizer = "muon"
    with pytest.raises(ValueError) as error:
        build_recipe(tiny_config)
    assert "config.train.lora needs config.train.init_from" in str(error.value)
    assert "config.train.optimizer must be 'adamw' with config.train.lora" in str(error.value)


@pytest.mark.slow
@pytest.mark.e2e
def test_a_run_goes_on_exactly(run, flags, tmp_path):
    stopped = [flag for flag in flags if "train.steps" not in flag]
    half = [*stopped, "--config.train.steps=4", f"--workdir={tmp_path}"]
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/4")
    assert not train.main(half)
    one, other = (run_folder.find_weights(folder).load() for folder in (run, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.e2e
def test_what_is_sampled_is_the_base_with_the_adapters(run, base, tmp_path, capsys):
    weights, own = find_weights(run), find_weights(base).load()
    adapted, read = weights.load(), weights.tensors()
    assert flatten(adapted).keys() == flatten(own).keys() == read.keys()
    for name, array in flatten(adapted).items():
        np.testing.assert_allclose(array, read[name].read(), rtol=1e-6, atol=1e-7)
    different = [n for n, x in flatten(adapted).items() if not np.array_equal(x, flatten(own)[n])]
    assert {name.split(".")[-2] for name in different} == {"to_q", "to_k", "to_v", "to_out"}

    assert convert.main([f"--source={run}", "--to=lora", f"--output={tmp_path / 'lora'}"]) == 0
    assert convert.main([f"--source={run}", f"--output={tmp_path / 'merged'}"]) == 0
    capsys.readouterr()
    stories = [
        m2.load(run)(PROMPTS, seed=1),
        m2.load(tmp_path / "merged")(PROMPTS, seed=1),
        m2.load(base, lora=[str(tmp_path / "lora")])(PROMPTS, seed=1),
    ]
    plain = m2.load(base)(PROMPTS, seed=1)
    nothing = m2.load(base, lora=[f"{tmp_path / 'lora'}:0"])(PROMPTS, seed=1)
    for story in stories[1:]:
        np.testing.assert_allclose(last_scene(story), last_scene(stories[0]), atol=1e-4)
    assert np.abs(last_scene(plain) - last_scene(stories[0])).max() > 1e-2
    np.testing.assert_array_equal(last_scene(nothing), last_scene(plain))
    without = open_base(m2.load(run), run, None, None)(PROMPTS, seed=1)
    np.testing.assert_array_equal(last_scene(without), last_scene(plain))
    assert stories[2].provenance["lora"][0]["weight"] == 1.0


@pytest.mark.slow
def test_a_base_that_is_another_now_is_refused(
    run, base, flags, tmp_path, make_tiny_config, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    record = json.loads((copy / "base.json").read_text())
    assert record["place"] == str(base / "checkpoints/7")
    record["fingerprint"] = "another"
    (copy / "base.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="which is not there or has other weights now"):
        find_weights(copy)
    (copy / "base.json").write_text("{")
    with pytest.raises(ValueError, match="base.json: not what the training of adapters writes"):
        find_weights(copy)
    other = tmp_path / "other"
    save_run(other, make_tiny_config(), step=9)
    longer = ["--config.train.steps=6", "--override", f"--config.train.init_from={other}"]
    assert train.main([*flags, *longer, f"--workdir={run}"]) == 2
    assert f"{other / 'checkpoints/9'} has other weights than the base" in capsys.readouterr().err


def test_a_run_without_adapters_has_none_to_write(base, tmp_path, capsys):
    assert convert.main([f"--source={base}", "--to=lora", f"--output={tmp_path / 'l'}"]) == 2
    assert "trained no adapters" in capsys.readouterr().err
