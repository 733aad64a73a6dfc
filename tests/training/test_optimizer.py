from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.training.optimizer import learning_rate_schedule, make_optimizer


@pytest.fixture
def params(tiny_config):
    return jax.jit(build_recipe(tiny_config).init_params)(jax.random.key(0))


def _update(optimizer, params, gradients) -> Any:
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def _ones(params):
    return jax.tree.map(jnp.ones_like, params)


@pytest.fixture
def train(tiny_config):
    """Without warm-up, so that the first step moves; the text encoder moves as the rest."""
    train = Config.from_dict(tiny_config).train
    return replace(train, warmup_steps=0, text_encoder_share=1.0)


def test_learning_rate_rises_linearly_and_falls_to_a_twentieth(train):
    train = replace(train, learning_rate=1.0, warmup_steps=10, steps=110)
    rate = learning_rate_schedule(train)
    np.testing.assert_allclose(np.array([rate(0), rate(5), rate(10)]), [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(np.array([rate(60), rate(110)]), [0.525, 0.05], atol=1e-6)


def test_constant_learning_rate_after_the_warm_up(train):
    train = replace(train, schedule="constant", learning_rate=1e-5, warmup_steps=100, steps=1000)
    rate = learning_rate_schedule(train)
    rates = np.array([rate(step) for step in (0, 1, 50, 99, 100, 101, 999, 5000)])
    expected = [0, 1e-7, 5e-6, 9.9e-6, 1e-5, 1e-5, 1e-5, 1e-5]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    # The number of steps is nothing to it, so that a run can be made longer.
    longer = learning_rate_schedule(replace(train, steps=2000))
    np.testing.assert_array_equal(rates[-2], longer(999))


def test_constant_learning_rate_without_warm_up(train):
    train = replace(train, schedule="constant", learning_rate=1e-5)
    np.testing.assert_allclose(np.array(learning_rate_schedule(train)(0)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_frozen_text_encoder_stays_as_it_is(name, train, params):
    train = replace(train, optimizer=name, weight_decay=0.1)
    after = _update(make_optimizer(train, False), params, _ones(params))
    jax.tree.map(np.testing.assert_array_equal, after["text_encoder"], params["text_encoder"])
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), after["transformer"], params["transformer"]
    )
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_text_encoder_moves_by_its_share_of_the_learning_rate(name, train, params):
    train = replace(train, optimizer=name, weight_decay=0.1)
    whole, slower = (
        make_optimizer(replace(train, text_encoder_share=share), True) for share in (1.0, 0.25)
    )
    updates, slow = (
        optimizer.update(_ones(params), optimizer.init(params), params)[0]
        for optimizer in (whole, slower)
    )
    jax.tree.map(np.testing.assert_array_equal, slow["transformer"], updates["transformer"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.25 * b, rtol=1e-6),
        slow["text_encoder"],
        updates["text_encoder"],
    )
    # A run may be gone on with at another share: the state is of the same kind.
    chex.assert_trees_all_equal_structs(*(x.init(params) for x in (whole, slower)))


def test_gradients_are_clipped_to_the_global_norm(train, params):
    optimizer = make_optimizer(train, True)
    # AdamW's first moments are a tenth of the gradient that it gets to see.
    _, state = optimizer.update(
        jax.tree.map(lambda x: 100 * jnp.ones_like(x), params), optimizer.init(params), params
    )
    (moments,) = optax.tree.get_all_with_path(state, "mu")
    np.testing.assert_allclose(optax.tree.norm(moments[1]), 0.1 * train.clip_norm, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_is_for_matrices_only(name, train, params):
    train = replace(train, optimizer=name, learning_rate=0.1, weight_decay=0.5)
    params = jax.tree.map(jnp.ones_like, params)
    after = _update(make_optimizer(train, True), params, jax.tree.map(jnp.zeros_like, params))
    for path, value in jax.tree_util.tree_leaves_with_path(after):
        expected = 1 - 0.1 * 0.5 if path[-1].key == "kernel" else 1
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=str(path))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_can_be_for_everything(name, train, params):
    train = replace(train, optimizer=name, learning_rate=0.1, weight_decay=0.5, decayed="all")
    params = jax.tree.map(jnp.ones_like, params)
    after = _update(make_optimizer(train, True), params, jax.tree.map(jnp.zeros_like, params))
    for path, value in jax.tree_util.tree_leaves_with_path(after):
        np.testing.assert_allclose(value, 1 - 0.1 * 0.5, rtol=1e-6, err_msg=str(path))


def test_adam_has_the_second_moments_and_epsilon_of_the_config(train):
    train = replace(train, schedule="constant", learning_rate=1.0, clip_norm=1e9)
    train = replace(train, adam_b2=0.9, adam_eps=0.5)
    optimizer = make_optimizer(train, True)
    params = {"transformer": {"kernel": jnp.zeros(1)}}
    state = optimizer.init(params)
    first, second = 1.0, -2.0
    for gradient in (first, second):
        gradients = {"transformer": {"kernel": jnp.array([gradient])}}
        updates, state = optimizer.update(gradients, state, params)
    # By hand: both moments with their bias taken out.
    mean = (0.09 * first + 0.1 * second) / (1 - 0.9**2)
    square = (0.09 * first**2 + 0.1 * second**2) / (1 - 0.9**2)
    expected = -mean / (np.sqrt(square) + 0.5)
    np.testing.assert_allclose(updates["transformer"]["kernel"], expected, rtol=1e-5)


def test_muon_makes_the_updates_of_block_matrices_orthogonal(train, params):
    train = replace(train, optimizer="muon", learning_rate=1.0)
    gradients = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    after = _update(make_optimizer(train, True), params, gradients)
    change = jax.tree.map(lambda a, b: np.asarray(a - b), after, params)["transformer"]
    query = change["blocks"]["attention"]["to_q"]["kernel"][0]
    singular = np.linalg.svd(query, compute_uv=False)
    # Newton-Schulz brings them near to one value, 0.2 * sqrt(width) by consistent_rms.
    assert singular.max() / singular.min() < 3
    assert 0.1 < np.sqrt((query**2).mean()) < 0.3
    # Everything else moves as Adam does, in the first step by the same everywhere.
    elsewhere = [change[name]["kernel"] for name in ("patch_embed", "proj_out", "modulation_out")]
    elsewhere += [
        change["blocks"][name]["linear"]["kernel"] for name in ("modulation1", "modulation2")
    ]
    sizes = np.concatenate([np.abs(kernel).ravel() for kernel in elsewhere])
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-2)
