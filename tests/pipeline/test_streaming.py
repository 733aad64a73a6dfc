"""A transformer run block by block from host memory: the same latents, and few arrays at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import SingleDeviceSharding

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.pipeline import streaming
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.pipeline.streaming import StreamedNetwork
from tests.models.random_weights import random_transformer

CONFIG = TransformerConfig(
    channels=2, patch_size=2, layers=3, heads=1, head_dim=16, text_dim=4, time_dim=4
)
SHAPE = (1, 2, 1, 4, 4, 2)


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def story(texts=2):
    return Conditions(
        clean=normal(0, SHAPE),
        given=jnp.array([[True, False]]),
        text_embeds=normal(1, (1, texts, 3, 4)),
        negative_embeds=normal(2, (1, texts, 3, 4)),
    )


def on_host(config=CONFIG):
    """The network on the device and in host memory."""
    graphdef, state = nnx.split(random_transformer(config))
    params = nnx.to_pure_dict(state)
    return LoadedNetwork(graphdef, params), LoadedNetwork(graphdef, jax.tree.map(np.array, params))


def latents_of(network, options=None, config=CONFIG, **how):
    steps = (options or SamplingOptions(steps=3)).table(NoiseSchedule(), 2)
    results = denoise(network, steps, story(), normal(3, SHAPE), lambda i: jnp.zeros(SHAPE), **how)
    return [np.asarray(result.latents) for result in results]


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        ("symmetric", {}),
        ("causal", {"guidance_start": 0.4, "reuse_uncond": 2, "cache_tolerance": 0.01}),
    ],
)
def test_streamed_latents_are_the_same_bits(mask, options):
    resident, host = on_host(replace(CONFIG, mask=mask))
    options = SamplingOptions(steps=4, **options)
    expected = latents_of(resident, options, cache=False)
    streamed = StreamedNetwork.of(host)
    made = latents_of(streamed, options)
    np.testing.assert_array_equal(made, expected)
    in_turn = latents_of(streamed, options, in_turn=True)
    np.testing.assert_allclose(in_turn, expected, atol=1e-5)
    assert not np.allclose(made[0], made[-1])


def test_the_branches_of_guidance_in_turn_make_the_same_latents():
    resident, _ = on_host()
    np.testing.assert_allclose(latents_of(resident, in_turn=True), latents_of(resident), atol=1e-5)


def test_two_blocks_at_most_are_on_the_device(monkeypatch):
    network = StreamedNetwork.of(on_host()[1])
    assert all(
        isinstance(x, np.ndarray) for layer in network.layers for x in jax.tree.leaves(layer)
    )
    kernel = (16, 64)  # that of the first layer of a block's feed-forward
    counts, block = [], streaming.run_block

    def counted(*args):
        counts.append(sum(x.shape == kernel for x in jax.live_arrays()))
        return block(*args)

    latents_of(network)
    monkeypatch.setattr(streaming, "run_block", counted)
    before = sum(x.shape == kernel for x in jax.live_arrays())
    latents_of(network)
    assert max(counts) - before == 2 and len(counts) == 3 * CONFIG.layers


def test_blocks_in_pinned_memory_come_to_the_device_by_themselves(monkeypatch):
    """CPUs have such memory in name: enough to see that arrays are where they should be."""
    place = SingleDeviceSharding(jax.devices()[0], memory_kind=streaming.PINNED)
    monkeypatch.setattr(streaming, "_pinned", lambda device: place)
    resident, host = on_host()
    network = StreamedNetwork.of(host)
    waiting, sent = jax.tree.leaves(network.layers[0]), jax.tree.leaves(network._put(0))
    assert {x.sharding.memory_kind for x in waiting} == {streaming.PINNED}
    assert {x.sharding.memory_kind for x in sent} == {"device"}
    np.testing.assert_array_equal(latents_of(network), latents_of(resident))


def test_what_has_no_blocks_cannot_be_streamed():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    with pytest.raises(ValueError, match="cannot be run block by block"):
        StreamedNetwork.of(LoadedNetwork(graphdef, nnx.to_pure_dict(state)))
