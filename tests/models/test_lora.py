import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from m2dit_jax.models.linear import Linear
from m2dit_jax.models.lora import (
    add_adapters,
    dropout,
    join_adapters,
    merge,
    merge_adapters,
    split_adapters,
)

CONFIG = TransformerConfig(
    channels=2, patch_size=2, layers=2, heads=1, head_dim=16, text_dim=4, time_dim=4, scan=False
)
TARGETS = ("to_q", "linear_2")


def adapted(rngs):
    model = M2DiT(CONFIG, rngs=rngs)
    add_adapters(model.blocks, TARGETS, 3, 0.5, rngs)
    return model


@pytest.fixture(scope="module")
def models():
    """Graphs of the model with adapters and without, and parameters of all of it, none zero."""
    model, plain = adapted(nnx.Rngs(0)), M2DiT(CONFIG, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return nnx.graphdef(model), nnx.graphdef(plain), jax.tree.unflatten(tree, drawn), params


def inputs():
    keys = jax.random.split(jax.random.key(2))
    latents = jax.random.normal(keys[0], (1, 2, 1, 4, 4, 2))
    return latents, jax.random.normal(keys[1], (1, 2, 3, 4)), jnp.array([[0, 500]])


def test_a_layer_by_hand():
    layer = Linear(2, 1, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.array([[1.0], [2.0]])
    assert layer.bias is not None
    layer.bias[...] = jnp.array([5.0])
    x = jnp.array([3.0, 4.0])
    assert layer(x) == 3 + 8 + 5
    add_adapters(nnx.Dict(only=layer), ("only",), 1, 10.0, nnx.Rngs(0))
    assert layer(x) == 16, "a fresh adapter changes nothing"
    layer.lora.a[...], layer.lora.b[...] = jnp.array([[1.0], [-1.0]]), jnp.array([[2.0]])
    assert layer(x) == 16 + 10 * (3 - 4) * 2
    pair = {"a": layer.lora.a[...], "b": layer.lora.b[...]}
    np.testing.assert_array_equal(merge(layer.kernel[...], pair, 10.0), [[21.0], [-18.0]])


def test_merged_adapters_compute_the_same_and_fresh_ones_nothing(models):
    graph, plain, params, fresh = models
    own, adapters = split_adapters(params)
    beside = nnx.merge(graph, params)(*inputs())
    merged = nnx.merge(plain, merge_adapters(own, adapters, 0.5))(*inputs())
    without = nnx.merge(plain, own)(*inputs())
    np.testing.assert_allclose(beside, merged, atol=2e-5)
    assert np.abs(beside - without).max() > 0.01
    unchanged = nnx.merge(graph, join_adapters(own, split_adapters(fresh)[1]))(*inputs())
    np.testing.assert_array_equal(unchanged, without)


def test_gradients_beside_are_those_of_the_merged_weights(models):
    graph, plain, params, _ = models
    own, adapters = split_adapters(params)

    def beside(adapters):
        return jnp.sum(nnx.merge(graph, join_adapters(own, adapters))(*inputs()) ** 2)

    def merged(adapters):
        return jnp.sum(nnx.merge(plain, merge_adapters(own, adapters, 0.5))(*inputs()) ** 2)

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3 * np.abs(y).max()),
        jax.grad(beside)(adapters),
        jax.grad(merged)(adapters),
    )


def test_only_the_targets_have_adapters_and_every_layer_its_own(models):
    own, adapters = split_adapters(models[2])
    flat = flatten_dict(adapters)
    layers = {path[:-2] for path in flat}
    assert layers == {("blocks", "attention", "to_q"), ("blocks", "mlp", "linear_2")}
    assert flat[("blocks", "mlp", "linear_2", "lora", "a")].shape == (2, 64, 3)
    assert not [path for path in flatten_dict(own) if "lora" in path]
    a = flatten_dict(split_adapters(models[3])[1])[("blocks", "attention", "to_q", "lora", "a")]
    assert not np.allclose(a[0], a[1])
    np.testing.assert_allclose(a.std(), 16**-0.5, rtol=0.3)


def test_unknown_targets():
    model = M2DiT(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no linear layer is called to_x"):
        add_adapters(model.blocks, ("to_q", "to_x"), 1, 1.0, nnx.Rngs(0))


def test_dropout_leaves_inputs_out_and_keeps_the_mean():
    adapters = {"layer": {"lora": {"a": jnp.ones((50, 40, 2)), "b": jnp.ones((50, 2, 4))}}}
    one = dropout(jax.random.key(0), adapters, 0.25)["layer"]["lora"]
    assert set(np.unique(one["a"])) == {0.0, np.float32(4 / 3)}
    assert (one["a"][..., 0] == one["a"][..., 1]).all(), "an input is left out whole"
    np.testing.assert_allclose(one["a"].mean(), 1, atol=0.05)
    np.testing.assert_array_equal(one["b"], 1)
    assert dropout(jax.random.key(0), adapters, 0.0) is adapters
