"""Adapters trained beside a base in 8 bits or 4."""

from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from m2dit_jax import train
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.models.lora import is_adapter, join_adapters
from m2dit_jax.models.quantized import FROZEN_FORMS, SCALE, STORED_AS, dequantize
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.training.data import open_training_data
from m2dit_jax.training.first_state import trained_params
from m2dit_jax.training.frozen import find_base, frozen_shapes
from m2dit_jax.training.step import StepConfig, draw_noisy_batch, loss_and_gradients
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.mapping import flatten
from tests.engines import random_params
from tests.training.test_lora_run import LORA, adapting, base, save_run

__all__ = ["base", "save_run"]


def recipe_of(config, base, form):
    adapting(config, base).train.lora.base_dtype = form
    return build_recipe(config)


def load_base(recipe):
    mesh = make_mesh({"data": -1, "fsdp": 1, "context": 1})
    return find_base(recipe).load(frozen_shapes(recipe, mesh))


def dequantized(params):
    """The floats that quantised parameters stand for."""
    flat = flatten_dict(params)
    for path in [path for path in flat if path[-1] == SCALE]:
        kernel = (*path[:-1], "kernel")
        flat[kernel] = dequantize(np.asarray(flat[kernel]), np.asarray(flat.pop(path)))
    return unflatten_dict(flat)


@pytest.mark.parametrize("form", FROZEN_FORMS)
def test_loss_and_gradients_are_those_of_the_weights_that_it_stands_for(
    base, make_tiny_config, form
):
    recipe = recipe_of(make_tiny_config(), base, form)
    frozen = load_base(recipe)
    flat = flatten(frozen)
    small = {name for name, x in flat.items() if x.dtype == STORED_AS[form]}
    assert small and all(name.startswith("transformer.blocks.") for name in small)
    floats = flatten(find_weights(base).load())
    share = {"int8": 1, "nf4": 0.5}[form]
    for name in small:
        assert flat[name].nbytes == share * floats[name].size
    blocks = (name for name in floats if name.startswith("transformer.blocks."))
    assert small == {name for name in blocks if name.endswith("kernel")}

    data = open_training_data(recipe)
    batch = next(data.batches(0, range(4)))
    config = StepConfig.from_config(recipe.config)
    noisy = draw_noisy_batch(jax.random.key(0), batch, data.empty_prompt, recipe.schedule, config)
    plain = recipe_of(make_tiny_config(), base, "float32")
    adapters = trained_params(plain, random_params(plain))

    def of(recipe, weights):
        whole = partial(join_adapters, weights)
        return loss_and_gradients(recipe.graphdef, adapters, noisy, config, whole=whole)

    loss, gradients = of(recipe, frozen)
    true_loss, true_gradients = of(plain, dequantized(frozen))
    np.testing.assert_allclose(loss, true_loss, rtol=1e-5)
    assert all(is_adapter(path) for path in flatten_dict(gradients))
    for found, true in zip(*map(jax.tree.leaves, (gradients, true_gradients)), strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-5 * np.abs(true).max())
        assert np.abs(true).max() > 0


@pytest.mark.slow
@pytest.mark.e2e
def test_a_run_beside_4_bits_validates_goes_on_and_is_sampled(base, tiny_flags, tmp_path):
    values = LORA | {
        "train.init_from": base,
        "train.checkpoint_every": 2,
        "train.validate_every": 2,
        "train.lora.base_dtype": "nf4",
    }
    flags = [*tiny_flags, *(f"--config.{name}={value}" for name, value in values.items())]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert not train.main([*flags, "--config.train.steps=4", f"--workdir={whole}"])
    for steps in (2, 4):
        more = [f"--config.train.steps={steps}", "--override", f"--workdir={parts}"]
        assert not train.main([*flags, "--config.train.schedule=constant", *more])
    found = find_weights(whole)
    assert flatten(found.load()).keys() == flatten(find_weights(base).load()).keys()
    assert (whole / "metrics.jsonl").read_text().count("validation") > 0
