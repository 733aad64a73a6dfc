import re

import jax
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.training import first_state
from m2dit_jax.training.first_state import check_init_from, make_first_state, state_shapes
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.weights.networks import ORBAX, open_leaves, torch_parts
from m2dit_jax.weights.orbax_files import write_orbax
from m2dit_jax.weights.run_folder import CheckpointError
from tests.weights.tiny_models import BFLOAT16, CONFIGS, tiny_network, tiny_tensors

KEY = jax.random.key(0)


@pytest.fixture
def config(make_encoded_config, tmp_path):
    """Starts from a transformer of the config's size, in bfloat16 as CogVideoX-5b is."""
    config = make_encoded_config()
    config.train.init_from = str(tmp_path / "model")
    tiny_network(tmp_path / "model" / "transformer", "transformer", BFLOAT16)
    return config


def _optimizer(recipe):
    return make_optimizer(recipe.config.train, recipe.config.trains_text_encoder)


def _first_state(config):
    recipe = build_recipe(config)
    mesh = make_mesh(config.mesh.to_dict())
    state = with_shardings(state_shapes(recipe, _optimizer(recipe)), mesh)
    return make_first_state(recipe, _optimizer(recipe), KEY, state)()


def _expected(leaf):
    """The folder's tensors of a leaf, laid out as ours."""
    network, config = DEFAULT.transformer, CONFIGS["transformer"]
    parts = torch_parts(network, config, network.abstract(config))
    tensors = tiny_tensors("transformer")
    layers = [
        part.change.to_jax(tensors[name].read().astype(BFLOAT16).astype(np.float32))
        for name, part in parts.items()
        if part.leaf == leaf
    ]
    return np.stack(layers) if len(layers) > 1 else layers[0]


@pytest.mark.parametrize("form", ["diffusers", "orbax"])
def test_the_transformer_starts_from_the_weights_of_the_folder(form, config, tmp_path):
    if form == "orbax":
        source, target = tmp_path / "model" / "transformer", tmp_path / "orbax" / "transformer"
        target.mkdir(parents=True)
        (target / "config.json").write_text((source / "config.json").read_text())
        network = DEFAULT.transformer
        leaves = open_leaves(source, network, network.abstract(CONFIGS["transformer"]))
        write_orbax(target / ORBAX, leaves)
        config.train.init_from = str(tmp_path / "orbax")
    config.train.ema_decay = 0.99
    check_init_from(build_recipe(config))
    state = _first_state(config)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    assert state.ema is not None
    for params in (state.params, state.ema):
        transformer = params["transformer"]
        for place in (("patch_embed", "kernel"), ("blocks", "attention", "to_q", "kernel")):
            actual = transformer
            for name in place:
                actual = actual[name]
            np.testing.assert_array_equal(actual, _expected(".".join(place)))
    assert state.step == 0
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize("starts", ["afresh", "from a folder"])
def test_shapes_are_known_without_reading(starts, config):
    if starts == "afresh":
        config.train.init_from = ""
    recipe = build_recipe(config)
    shapes = state_shapes(recipe, _optimizer(recipe))
    state = _first_state(config)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, array in zip(*map(jax.tree.leaves, (shapes, state)), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)


def test_all_that_does_not_fit_is_named_together(config, tmp_path):
    config.model.head_dim = 32
    config.model.layers = 2
    config.model.base_grid = ()
    config.data.channels = 3
    with pytest.raises(ValueError) as error:
        check_init_from(build_recipe(config))
    message = str(error.value)
    assert message.startswith(
        f"config.train.init_from: {tmp_path}/model/transformer does not fit:\n"
    )
    for problem in (
        "config.data.channels is 3, that of the folder 2",
        "config.model.layers is 2, that of the folder 3",
        "config.model.head_dim is 32, that of the folder 16",
        "config.model.base_grid is (), that of the folder (13, 30, 45)",
    ):
        assert problem in message
    # Layer 2 of the folder, and every tensor as wide as a head.
    assert re.search(r"\d+ unexpected: transformer_blocks\.2\.", message)
    assert "norm_q.weight (found (16,), needs (32,))" in message


def test_weights_that_are_not_what_their_config_says(config, tmp_path):
    folder = tmp_path / "other" / "transformer"
    tiny_network(folder, "transformer", text_embed_dim=7)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"text_embed_dim": 7', '"text_embed_dim": 6'))
    config.train.init_from = str(folder.parent)
    with pytest.raises(ValueError, match=re.escape("found (16, 7), needs (16, 6)")) as error:
        check_init_from(build_recipe(config))
    assert "config.data.text_dim" not in str(error.value)


@pytest.mark.parametrize("name", ["mask", "attention", "scan", "remat"])
def test_what_says_nothing_about_the_weights_may_differ(name, config):
    changes = {"mask": "full", "attention": "dense", "scan": False, "remat": "none"}
    config.model[name] = changes[name]
    check_init_from(build_recipe(config))


def test_a_folder_that_is_not_there(config, tmp_path):
    config.train.init_from = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere/transformer/config.json: no such file"):
        check_init_from(build_recipe(config))


def test_weights_that_vanish_before_they_are_read(config, monkeypatch):
    def vanish(*_):
        raise ValueError("model.safetensors: cut short")

    monkeypatch.setattr(first_state, "load_params", vanish)
    with pytest.raises(CheckpointError, match="config.train.init_from: model.safetensors: cut"):
        _first_state(config)
