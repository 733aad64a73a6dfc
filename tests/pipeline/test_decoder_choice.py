"""How a VAE decodes by default: whole where the device's memory is enough."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.errors import JaxRuntimeError

from m2dit_jax.models.cogvideox.vae import CausalVae, VaeConfig, decoding_bytes
from m2dit_jax.models.cogvideox.vae_strips import decode_in_strips
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.parallel.mesh import make_mesh, replicated
from m2dit_jax.pipeline import codecs
from m2dit_jax.pipeline.codecs import VaeCodec
from m2dit_jax.pipeline.memory import NetworkSet

CONFIG = VaeConfig((4, 4), 1, 2, latent_channels=3, temporal_compression_ratio=2)
LATENTS = np.random.default_rng(1).standard_normal((1, 3, 4, 3, 3), np.float32)
NEEDED = decoding_bytes(CONFIG, 3, 4, 3, "float32", "cpu")


@pytest.fixture
def decode(monkeypatch):
    """Decodes by the default; returns frames, whether it was in strips, and the lines said."""
    graphdef, params = nnx.split(CausalVae(CONFIG, rngs=nnx.Rngs(0)))
    strips, lines = [], []

    def in_strips(*arguments):
        strips.append(True)
        return decode_in_strips(*arguments)

    def decode(free):
        monkeypatch.setattr(codecs, "free_bytes", lambda device: free)
        networks = NetworkSet({"VAE": lambda: LoadedNetwork(graphdef, params)}, True, lines.append)
        codec = VaeCodec(lambda *size: size, None, "float32", in_strips)
        frames = codec.decode(networks, LATENTS, 5, "scene 1")
        return frames, bool(strips), lines

    return decode


def test_whole_where_it_fits(decode):
    _, strips, lines = decode(2 * NEEDED)
    assert not strips and lines == [f"scene 1, chunk {n}/2 decoded" for n in (1, 2)]


def test_in_strips_where_it_does_not_and_says_so(decode):
    frames, strips, lines = decode(NEEDED)
    assert strips and "scene 1: decoding it whole takes about" in lines[0]
    whole, *_ = decode(2 * NEEDED)
    assert np.abs(frames.astype(int) - whole).max() <= 1


def test_by_size_where_nobody_knows_the_memory(decode, monkeypatch):
    assert not decode(None)[1]
    monkeypatch.setattr(codecs, "WHOLE_LATENTS", 11)
    _, strips, lines = decode(None)
    assert strips and "4x3 latents are large" in lines[2]


def test_in_strips_where_the_estimate_was_too_low(decode, monkeypatch):
    def fail(vae, latents):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(CausalVae, "decode_stream", fail)
    _, strips, lines = decode(2 * NEEDED)
    assert strips and "memory was not enough" in lines[0]


def decoded_with_a_copy_on_each_device():
    graphdef, params = nnx.split(CausalVae(CONFIG, rngs=nnx.Rngs(0)))
    params = jax.device_put(params, replicated(make_mesh({"data": -1, "fsdp": 1, "context": 1})))
    networks = NetworkSet({"VAE": lambda: LoadedNetwork(graphdef, params)}, True)
    codec = VaeCodec(lambda *size: size, None, "float32", decode_in_strips)
    return codec.decode(networks, LATENTS, 5, "scene 1").shape


def test_a_vae_with_a_copy_on_each_device_decodes_by_default(on_eight_devices):
    assert on_eight_devices(decoded_with_a_copy_on_each_device) == (1, 5, 8, 6, 3)


def test_what_decoding_takes_grows_with_the_picture():
    def released(rows, columns, dtype, platform="gpu"):
        config = VaeConfig((128, 256, 256, 512), 3, 32, latent_channels=16)
        return decoding_bytes(config, 13, rows, columns, dtype, platform) / 2**30

    # As compiled for an absent H100: 9.3 GiB beside the weights in bfloat16, 16.9 in float32.
    assert 9.3 < released(60, 90, "bfloat16") < 10.3
    assert 16.9 < released(60, 90, "float32") < 20.6
    assert released(60, 90, "bfloat16", "tpu") > released(60, 90, "bfloat16")
    assert released(32, 48, "bfloat16") < 0.3 * released(60, 90, "bfloat16")
