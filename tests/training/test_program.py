import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.loader import EncodedBatch
from m2dit_jax.models.quantized import FROZEN_FORMS
from m2dit_jax.parallel.batches import on_mesh
from m2dit_jax.parallel.mesh import make_mesh, replicated
from m2dit_jax.parallel.rules import path_name
from m2dit_jax.training.first_state import make_first_state
from m2dit_jax.training.frozen import find_base
from m2dit_jax.training.program import make_train_program
from tests.training.test_lora_run import save_run

STORIES = 8
EMPTY = np.zeros((8, 6), jnp.bfloat16)  # the empty prompt
MESHES = {
    (8, 1, 1): {"model.remat": "none", "model.scan": False},
    (1, 8, 1): {"model.remat": "attention"},
    (1, 1, 8): {"train.accumulate": 2},
    (2, 2, 2): {"train.accumulate": 2, "model.remat": "matrices"},
}


@pytest.fixture(scope="module")
def config(make_encoded_config):
    config = make_encoded_config()
    config.train.batch_size = STORIES
    config.train.compute_dtype = "float32"
    # Else Adam makes of a gradient that is all rounding a step like any other.
    config.train.adam_eps = 1e-3
    config.train.warmup_steps = 0
    config.train.ema_decay = 0.9
    config.train.given_probability = 0.5
    config.model.heads = 8
    return config


@pytest.fixture(scope="module")
def on_one_device(config):
    return _train((1, 1, 1), config, {})


def _train(sizes, config, changes):
    """Losses of two steps, weights and averages after them, each device's share of the matrices."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    config.mesh.update(dict(zip(("data", "fsdp", "context"), sizes, strict=True)))
    recipe = build_recipe(config)
    mesh = make_mesh(config.mesh.to_dict(), jax.devices()[: np.prod(sizes)])
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=(STORIES, 2, *shape)).astype(jnp.bfloat16)

    batch = EncodedBatch(draw(2, 4, 4, 2), draw(2, 4, 4, 2), draw(8, 6))
    program = make_train_program(recipe, mesh, EMPTY, 0.7)
    keys = jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(0))), out_shardings=replicated(mesh)
    )()
    config.distill.teacher = ""  # else the first weights would be its
    state = make_first_state(build_recipe(config), program.optimizer, keys[0], program.state)()
    step, losses, more = program.lower(batch).compile(), [], ()
    if recipe.config.train.lora.rank:
        more = (find_base(recipe).load(program.frozen),)
    elif program.frozen is not None:
        places = jax.tree.map(lambda x: x.sharding, program.frozen)
        more = (jax.jit(_another_model(recipe), out_shardings=places)(keys[0]),)
    for _ in range(2):
        state = step(state, keys[1], on_mesh(batch, range(STORIES), STORIES, mesh), *more)
        losses.append(float(state.metrics.loss))
    held = more or state  # the matrices that take the room
    large = [x for path, x in jax.tree_util.tree_leaves_with_path(held) if _is_block(path)]
    share = sum(x.addressable_data(0).nbytes for x in large) / sum(x.nbytes for x in large)
    return losses, jax.device_get((state.params, state.ema)), share


def _another_model(recipe):
    return lambda key: jax.tree.map(lambda x: x + 0.02, recipe.init_params(key))


def _is_block(path):
    return "blocks" in path_name(path) and "kernel" in path_name(path)


def check_same(trained, expected):
    """Raises unless losses and weights of two trainings agree."""
    np.testing.assert_allclose(trained[0], expected[0], rtol=1e-5)

    def close(actual, expected):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)

    jax.tree.map(close, trained[1], expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES)
def test_every_mesh_trains_as_one_device_does(sizes, config, on_one_device, on_eight_devices):
    on_mesh = on_eight_devices(_train, sizes, config, MESHES[sizes])
    check_same(on_mesh, on_one_device)
    assert on_mesh[2] == 1 / (sizes[1] * sizes[2])  # of matrices, on each device


@pytest.mark.slow
def test_a_mesh_distils_as_one_device_does(config, on_eight_devices):
    distilled = {
        "distill.teacher": "runs/another",
        "distill.steps": 2,
        "distill.teacher_steps": 4,
        "distill.guidance_scale": 2.0,
        "sample.steps": 2,
        "sample.guidance_scale": 1.0,
    }
    on_mesh = on_eight_devices(_train, (2, 2, 2), config, distilled | {"train.accumulate": 2})
    check_same(on_mesh, _train((1, 1, 1), config, distilled))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["float32", *FROZEN_FORMS])
def test_a_mesh_trains_adapters_as_one_device_does(form, config, tmp_path, on_eight_devices):
    save_run(tmp_path, config)
    adapters = {
        "train.init_from": str(tmp_path),
        "train.lora.rank": 2,
        "train.lora.base_dtype": form,
        "train.ema_decay": 0.0,
    }
    on_mesh = on_eight_devices(_train, (2, 2, 2), config, adapters | {"train.accumulate": 2})
    check_same(on_mesh, _train((1, 1, 1), config, adapters))
    assert on_mesh[2] == 1 / 4


def test_stories_must_divide_over_the_mesh(config, on_eight_devices):
    message = on_eight_devices(_refusal, config)
    assert message == (
        "config.train.batch_size / config.train.accumulate must be a multiple of the 8 devices "
        "along config.mesh.data and config.mesh.fsdp, got 4"
    )


def _refusal(config):
    config = config.copy_and_resolve_references()
    config.train.accumulate = 2
    try:
        make_train_program(build_recipe(config), make_mesh(config.mesh.to_dict()), EMPTY)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_momentum_can_be_kept_in_bfloat16(optimizer, config):
    config = config.copy_and_resolve_references()
    config.train.optimizer, config.train.momentum_dtype = optimizer, "bfloat16"
    mesh = make_mesh(config.mesh.to_dict(), jax.devices()[:1])
    state = make_train_program(build_recipe(config), mesh, EMPTY).state
    dtypes = {"mu": set(), "nu": set(), "params": set()}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        for part in dtypes.keys() & set(path_name(path).split("/")):
            dtypes[part].add(str(x.dtype))
    assert dtypes == {"mu": {"bfloat16"}, "nu": {"float32"}, "params": {"float32"}}
