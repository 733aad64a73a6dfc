"""Decoding in tiles: what the blending promises, and how far from seams the VAE's tiles are."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.cogvideox.vae import CausalVae, VaeConfig
from m2dit_jax.models.cogvideox.vae_layers import enlarge
from m2dit_jax.models.vae_tiles import blend_weights, decode_tiled, tile_starts

FACTOR = 2


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.fixture(scope="module")
def vae():
    config = VaeConfig(
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=3,
        temporal_compression_ratio=2,
    )
    return CausalVae(config, rngs=nnx.Rngs(0))


def pointwise_decode(latents, shapes=None):
    """A decoder that looks at nothing but the place itself, one latent frame after the other."""
    if shapes is not None:
        shapes.append(latents.shape)
    for frame in range(latents.shape[1]):
        yield enlarge(jnp.tanh(latents[:, frame : frame + 1]), 1, FACTOR)


def test_tile_starts():
    assert tile_starts(60, 36, 8) == [0, 24]
    assert tile_starts(60, 30, 5) == [0, 15, 30]
    assert tile_starts(60, 30, 0) == [0, 30]
    assert tile_starts(7, 3, 2) == [0, 1, 2, 3, 4]
    assert tile_starts(5, 8, 2) == [0]


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(9, 4, 1), (7, 3, 2), (8, 4, 0), (3, 3, 1)]
)
def test_tiles_cover_and_their_weights_sum_to_one(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    total = np.zeros(length * FACTOR)
    weights = blend_weights(starts, tile, length, FACTOR)
    for start, weight in zip(starts, weights, strict=True):
        assert (weight > 0).all()
        total[start * FACTOR : (start + tile) * FACTOR] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))


def test_weights_are_ramps():
    weights = np.stack(blend_weights([0, 2], 4, 6, 1))
    expected = np.array([[1, 1, 0.75, 0.25], [0.25, 0.75, 1, 1]])
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("overlap", [(0, 0), (1, 2), (3, 4)])
def test_without_context_tiles_make_the_same_video(overlap):
    latents, shapes, done = normal(2, 3, 9, 11, 3), [], []
    tiled = decode_tiled(
        partial(pointwise_decode, shapes=shapes),
        latents,
        FACTOR,
        tile=(4, 5),
        overlap=overlap,
        on_tile=lambda tile, tiles: done.append((tile, tiles)),
    )
    whole = jnp.concatenate(list(pointwise_decode(latents)), axis=1)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    assert set(shapes) == {(2, 3, 4, 5, 3)}
    assert done == [(i + 1, len(shapes)) for i in range(len(shapes))]


def test_one_tile_is_the_untiled_decode(vae):
    latents = normal(1, 3, 4, 5, 3)
    tiled = decode_tiled(vae.decode_stream, latents, FACTOR, tile=(36, 54))
    np.testing.assert_allclose(tiled, vae.decode(latents), atol=1e-6)


def seam_strength(error, starts, tile):
    """The error's steps across the borders of tiles against those elsewhere."""
    steps = np.abs(np.diff(error, axis=3)).mean((0, 1, 2, 4))
    edges = [start * FACTOR - 1 for start in starts[1:]]
    edges += [(start + tile) * FACTOR - 1 for start in starts[:-1]]
    return steps[edges].max() / np.median(np.delete(steps, edges))


@pytest.mark.slow
def test_blended_tiles_have_no_seams(vae):
    latents = normal(1, 1, 8, 48, 3)
    whole = vae.decode(latents)
    strengths = {}
    for overlap in (0, 8):
        tiled = decode_tiled(vae.decode_stream, latents, FACTOR, (8, 24), (0, overlap))
        strengths[overlap] = seam_strength(tiled - whole, tile_starts(48, 24, overlap), 24)
    assert strengths[8] < 2.5
    assert strengths[0] > 3 * strengths[8]


@pytest.mark.parametrize("overlap", [(0, 5), (-1, 0), (4, 0)])
def test_overlaps_that_cannot_be_are_refused(overlap):
    with pytest.raises(ValueError, match=r"must be smaller than tile \(4, 5\)"):
        decode_tiled(pointwise_decode, normal(1, 1, 8, 8, 3), FACTOR, (4, 5), overlap)
