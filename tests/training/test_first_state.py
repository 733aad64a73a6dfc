import re

import jax
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.pipeline.export import make_export_plan
from m2dit_jax.training import checkpoints, first_state
from m2dit_jax.training.first_state import check_init_from, make_first_state, state_shapes
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights.conversion import execute
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


def test_a_folder_whose_output_means_something_else_is_refused(config, tmp_path):
    (tmp_path / "model" / "scheduler").mkdir()
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text('{"prediction_type": "sample"}')
    config.diffusion.prediction = "v"
    with pytest.raises(ValueError, match="prediction is 'v', that of the folder 'x0'"):
        check_init_from(build_recipe(config))
    config.diffusion.prediction = "x0"
    assert check_init_from(build_recipe(config)).startswith("starts from ")


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
    with pytest.raises(
        ValueError, match="init_from: .*nowhere: no such folder; needs a run or a model folder"
    ):
        check_init_from(build_recipe(config))


# --- from another run


def _save_run(folder, config, step=7):
    """A run of one checkpoint, whose average is the weights plus one; returns the weights."""
    recipe = build_recipe(config)
    params = jax.jit(recipe.init_params)(jax.random.key(5))
    state = TrainState.create(params, _optimizer(recipe), ema_decay=0.9)
    state = state._replace(
        step=jax.numpy.int32(step), ema=jax.tree.map(lambda x: x + 1, state.params)
    )
    manager = checkpoints.open_manager(folder, keep=1)
    checkpoints.save(manager, state, recipe.config)
    manager.close()
    return params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        *(("of latents", kind) for kind in ("run", "step")),  # test_two_stages.py has the converted
        *(("with a text encoder", kind) for kind in ("run", "step", "converted", "params")),
    ],
)
def test_a_run_starts_from_the_weights_of_another(
    model, kind, make_tiny_config, make_encoded_config, tmp_path
):
    config = make_encoded_config() if model == "of latents" else make_tiny_config()
    params = _save_run(tmp_path / "run", config)
    start = {"run": "run", "step": "run/checkpoints/7"}.get(kind, "converted")
    expected = params if kind == "params" else jax.tree.map(lambda x: x + 1, params)
    if start == "converted":
        chosen = "params" if kind == "params" else None
        execute(
            make_export_plan(tmp_path / "run", tmp_path / "converted", weights=chosen), lambda _: 0
        )
    config.train.init_from = str(tmp_path / start)
    config.train.ema_decay = 0.99
    config.train.steps = 99  # whatever says nothing about the weights may differ
    config.model.remat = "full"
    line = check_init_from(build_recipe(config))
    assert line.startswith(f"starts from {tmp_path / start}")
    state = _first_state(config)
    assert state.step == 0 and state.ema is not None
    for found in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(state.opt_state))


def test_all_that_does_not_fit_another_run_is_named_together(tiny_config, tmp_path):
    _save_run(tmp_path / "run", tiny_config)
    tiny_config.train.init_from = str(tmp_path / "run")
    tiny_config.model.layers = 2
    tiny_config.model.time_dim = 32
    tiny_config.text_encoder.d_model = 32
    tiny_config.diffusion.prediction = "v"
    with pytest.raises(ValueError) as error:
        check_init_from(build_recipe(tiny_config))
    message = str(error.value)
    assert message.startswith(f"config.train.init_from: {tmp_path}/run/checkpoints/7 does not fit:")
    for problem in (
        "config.model.layers is 2, that of the run 1",
        "config.model.time_dim is 32, that of the run 16",
        "config.text_encoder.d_model is 32, that of the run 16",
        "config.diffusion.prediction is 'v', that of the run 'x0'",
        "transformer.text_proj.kernel (found (16, 16), needs (32, 16))",
    ):
        assert problem in message
    count = re.search(r"(\d+) of another shape", message)
    assert count and int(count[1]) > 20


def test_a_run_on_pixels_does_not_start_from_released_weights(tiny_config, config):
    tiny_config.train.init_from = config.train.init_from
    with pytest.raises(ValueError, match="is no training run, .*'shapes' needs: released weights"):
        check_init_from(build_recipe(tiny_config))


def test_a_run_on_latents_does_not_start_from_one_on_pixels(config, tiny_config, tmp_path):
    _save_run(tmp_path / "run", tiny_config)
    config.train.init_from = str(tmp_path / "run")
    with pytest.raises(ValueError, match="config.data.source is 'latents', that of the run 'sha"):
        check_init_from(build_recipe(config))


def test_weights_that_vanish_before_they_are_read(config, monkeypatch):
    def vanish(*_):
        raise ValueError("model.safetensors: cut short")

    monkeypatch.setattr(first_state, "load_params", vanish)
    with pytest.raises(CheckpointError, match="config.train.init_from: model.safetensors: cut"):
        _first_state(config)
