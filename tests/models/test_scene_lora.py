import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import unflatten_dict

from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from m2dit_jax.models.lora import add_adapters, merge_adapters
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.scene_lora import attach_to_scenes

WIDTH, LAYERS = 16, 2
SIZES = {"attention.to_q": (WIDTH, WIDTH), "mlp.linear_1": (WIDTH, 4 * WIDTH)}


@pytest.fixture(scope="module", params=["symmetric", "independent"])
def network(request):
    config = TransformerConfig(
        layers=LAYERS, heads=1, head_dim=16, time_dim=8, channels=3, patch_size=2, text_dim=4,
        mask=request.param,
    )  # fmt: skip
    model = M2DiT(config, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    keys = iter(jax.random.split(jax.random.key(1), 200))
    params = nnx.to_pure_dict(state)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    return LoadedNetwork(graphdef, params), request.param


def adapters(seed, rank=2):
    rng = np.random.default_rng(seed)
    return unflatten_dict(
        {
            ("blocks", *layer.split("."), "lora", name): rng.normal(
                size=(LAYERS, inputs, rank) if name == "a" else (LAYERS, rank, outputs)
            ).astype(np.float32)
            for layer, (inputs, outputs) in SIZES.items()
            for name in ("a", "b")
        }
    )


def run(network, texts=2, frames=None):
    keys = jax.random.split(jax.random.key(2), 2)
    latents = jax.random.normal(keys[0], (1, 2, 2, 4, 4, 3))
    text = jax.random.normal(keys[1], (1, texts, 3, 4))
    model = nnx.merge(*network)
    return np.asarray(model(latents, text, jnp.array([[3, 3]]), frames=frames))


def test_in_all_scenes_it_is_as_if_it_were_added_to_the_weights(network):
    network, _ = network
    everywhere = attach_to_scenes(network, [adapters(0), adapters(1, 3)], np.array([[0.5, 2]] * 2))
    params = merge_adapters(network.params, adapters(0), 0.5)
    merged = LoadedNetwork(network.graphdef, merge_adapters(params, adapters(1, 3), 2.0))
    np.testing.assert_allclose(run(everywhere), run(merged), rtol=2e-4, atol=2e-4)


def test_each_scene_has_its_own(network):
    network, mask = network
    first = run(attach_to_scenes(network, [adapters(0)], np.array([[1.0], [0.0]])))
    plain = run(network)
    assert np.abs(first[:, 0] - plain[:, 0]).max() > 1e-2
    if mask == "independent":  # other scenes see nothing of it
        np.testing.assert_allclose(first[:, 1], plain[:, 1], atol=1e-5)
        everywhere = run(attach_to_scenes(network, [adapters(0)], np.ones((2, 1))))
        np.testing.assert_allclose(first[:, 0], everywhere[:, 0], atol=1e-4)
    else:
        assert np.abs(first[:, 1] - plain[:, 1]).max() > 1e-4


def test_with_a_global_text_and_scenes_of_unequal_length(network):
    network, mask = network
    if mask == "independent":  # then scenes share nothing, a global text neither
        return
    weights = np.array([[0.0], [1.0], [1.0]])
    adapted = attach_to_scenes(network, [adapters(0)], weights)
    plain = run(network, 3, (1, 2))
    assert np.abs(run(adapted, 3, (1, 2)) - plain)[:, 0, 0].max() > 1e-2
    nothing = attach_to_scenes(network, [adapters(0)], 0 * weights)
    np.testing.assert_allclose(run(nothing, 3, (1, 2)), plain, atol=1e-6)


def test_adapters_that_are_there_stay_for_all(network):
    network, _ = network
    model = nnx.merge(*network)
    add_adapters(model.blocks, ("to_q",), 2, 0.5, nnx.Rngs(3))
    adapter = model.blocks.attention.to_q.lora
    adapter.b[...] = jax.random.normal(jax.random.key(4), adapter.b.shape)
    graphdef, state = nnx.split(model)
    there = LoadedNetwork(graphdef, nnx.to_pure_dict(state))
    both = attach_to_scenes(there, [adapters(0)], np.zeros((2, 1)))
    assert np.abs(run(there) - run(network)).max() > 1e-3
    np.testing.assert_allclose(run(both), run(there), rtol=1e-4, atol=1e-5)


def test_other_layers_are_refused(network):
    network, _ = network
    place = ("blocks", "norm1", "lora")
    tree = unflatten_dict({(*place, name): np.zeros((LAYERS, 2, 2)) for name in ("a", "b")})
    with pytest.raises(ValueError, match=r"blocks.norm1: .*linear layers"):
        attach_to_scenes(network, [tree], np.ones((2, 1)))
