"""The VAE against the PyTorch reference's files, and what its chunks and caches promise."""

import json
from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from safetensors.numpy import load_file

from m2dit_jax.models.causal_conv import Carry, CausalConv
from m2dit_jax.models.coding import sample_latents
from m2dit_jax.models.cogvideox.vae import (
    CausalVae,
    VaeConfig,
    decoder_chunks,
    encoder_chunks,
)
from m2dit_jax.models.cogvideox.vae_keys import VAE
from m2dit_jax.models.cogvideox.vae_layers import GroupNorm
from m2dit_jax.models.key_rules import CHANGES

_ROOT = Path(__file__).parents[3]
GOLDEN = next(
    (folder for folder in (_ROOT / "tests/golden", _ROOT / "../shared/golden") if folder.is_dir()),
    None,
)
FILES = [] if GOLDEN is None else sorted(GOLDEN.glob("vae/*.npz"))
TOLERANCE = 3e-5


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def golden_folder(style):
    folder = GOLDEN and GOLDEN / f"pipe_{style}" / "vae"
    if folder is None or not (folder / "config.json").is_file():
        pytest.skip("needs ../shared/golden")
    return folder


def golden_config(style="5b"):
    config = json.loads((golden_folder(style) / "config.json").read_text())
    config["block_out_channels"] = tuple(config["block_out_channels"])
    return VaeConfig(**{field.name: config[field.name] for field in fields(VaeConfig)})


def golden_weights(style="5b"):
    return load_file(golden_folder(style) / "diffusion_pytorch_model.safetensors")


def torch_name(name):
    """The one name that the table has for an array of ours, and how its layout changes."""
    found = [(names, rule.change) for rule in VAE if (names := rule.torch_names(name)) is not None]
    [([only], change)] = found
    return only, CHANGES[change]


def flat_params(model):
    params = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {".".join(map(str, path)): value for path, value in params.items()}


def abstract_model(config):
    return nnx.eval_shape(lambda: CausalVae(config, rngs=nnx.Rngs(0)))


def build(config, value_of):
    """A model whose array of a name and shape is `value_of(name, shape)`."""
    graphdef, state = nnx.split(abstract_model(config))
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(state))
    values = {
        path: jnp.asarray(value_of(".".join(map(str, path)), like.shape))
        for path, like in flat.items()
    }
    assert {path: x.shape for path, x in values.items()} == {p: x.shape for p, x in flat.items()}
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(values))
    return nnx.merge(graphdef, state)


def golden_model(style):
    weights = golden_weights(style)

    def value_of(name, shape):
        torch, change = torch_name(name)
        return change.to_jax(weights[torch])

    return build(golden_config(style), value_of)


def random_model(config):
    rng = np.random.default_rng(0)

    def value_of(name, shape):
        noise = rng.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            return noise / np.sqrt(np.prod(shape[:-1]))
        return 0.1 * noise + name.endswith("scale")

    return build(config, value_of)


@pytest.fixture(scope="module")
def golden_vae():
    models = {}

    def get(style="5b"):
        if style not in models:
            models[style] = golden_model(style)
        return models[style]

    return get


SMALL = VaeConfig(
    block_out_channels=(4, 8),
    layers_per_block=1,
    norm_num_groups=2,
    latent_channels=3,
    temporal_compression_ratio=2,
)


@pytest.fixture(scope="module")
def small_vae():
    return random_model(SMALL)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def style_of(file):
    return file.stem.split("_")[1]


def test_there_are_golden_files():
    if GOLDEN is None:
        pytest.skip("needs ../shared/golden")
    assert FILES


@pytest.mark.parametrize("file", [f for f in FILES if "decode" in f.stem], ids=lambda f: f.stem)
@pytest.mark.parametrize(
    ("rule", "name"), [("reference", "video"), ("diffusers", "video_auto_split")]
)
def test_decode_golden(golden_vae, file, rule, name):
    arrays = np.load(file)
    if name not in arrays:
        return
    video = golden_vae(style_of(file)).decode(jnp.asarray(channels_last(arrays["latents"])), rule)
    expected = channels_last(arrays[name])
    np.testing.assert_allclose(video, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("file", [f for f in FILES if "encode" in f.stem], ids=lambda f: f.stem)
def test_encode_golden(golden_vae, file):
    arrays = {name: channels_last(value) for name, value in np.load(file).items()}
    vae, video = golden_vae(style_of(file)), jnp.asarray(arrays["video"])
    mean, logvar = vae.encode(video)
    sample = sample_latents(mean, logvar, jnp.asarray(arrays["eps"]))
    moments = vae.encode_moments(video)
    results = {"moments": moments, "mean": mean, "logvar": logvar, "sample": sample}
    for name, value in results.items():
        np.testing.assert_allclose(value, arrays[name], atol=TOLERANCE, rtol=0, err_msg=name)


def test_the_table_names_every_golden_weight_once():
    weights, model = golden_weights(), abstract_model(golden_config())
    names = {name: torch_name(name) for name in flat_params(model)}
    assert sorted(torch for torch, _ in names.values()) == sorted(weights)
    for name, value in flat_params(model).items():
        torch, change = names[name]
        ours = change.to_jax(weights[torch])
        assert ours.shape == value.shape, name
        back = change.to_torch(ours, weights[torch].shape)
        np.testing.assert_array_equal(back, weights[torch])


def test_the_table_has_one_name_for_each_array():
    config = VaeConfig((8, 16, 16, 32), layers_per_block=3, norm_num_groups=8, latent_channels=16)
    model = abstract_model(config)
    names = [torch_name(name)[0] for name in flat_params(model)]
    assert len(set(names)) == len(names)
    assert "decoder.up_blocks.1.resnets.3.norm1.conv_y.conv.weight" in names
    assert "encoder.down_blocks.2.downsamplers.0.conv.bias" in names


def test_encoder_chunks():
    assert encoder_chunks(1) == [1]
    assert encoder_chunks(7) == [7]
    assert encoder_chunks(8) == [8]
    assert encoder_chunks(13) == [13]
    assert encoder_chunks(16) == [8, 8]
    assert encoder_chunks(49) == [9, 8, 8, 8, 8, 8]


def test_decoder_chunks():
    assert decoder_chunks(1, "reference") == decoder_chunks(1, "diffusers") == [1]
    assert decoder_chunks(2, "reference") == [1, 1]
    assert decoder_chunks(2, "diffusers") == [2]
    assert decoder_chunks(4, "reference") == [1, 2, 1]
    assert decoder_chunks(4, "diffusers") == [2, 2]
    assert decoder_chunks(5, "reference") == [1, 2, 2]
    assert decoder_chunks(5, "diffusers") == [3, 2]


@pytest.mark.parametrize(("ratio", "blocks"), [(1, 2), (4, 3), (8, 4)])
def test_number_of_frames(ratio, blocks):
    config = VaeConfig(
        (2,) * blocks, 1, norm_num_groups=2, latent_channels=3, temporal_compression_ratio=ratio
    )
    vae = random_model(config)

    def frames(latent_frames, rule):
        latents = jnp.zeros((1, latent_frames, 1, 2, 3))
        return jax.eval_shape(lambda: vae.decode(latents, rule)).shape[1]

    assert frames(4, "reference") == 3 * ratio + 1
    assert frames(2, "diffusers") == 2 * ratio
    assert frames(3, "diffusers") == 2 * ratio + 1


def test_encoded_and_decoded_shapes_agree(small_vae):
    for frames in (1, 17):
        mean, _ = jax.eval_shape(small_vae.encode, jnp.zeros((2, frames, 4, 6, 3)))
        assert mean.shape == (2, (frames - 1) // 2 + 1, 2, 3, 3)
        video = jax.eval_shape(small_vae.decode, mean)
        assert video.shape == (2, frames, 4, 6, 3)


def test_a_convolution_chunk_by_chunk_is_the_whole_one():
    conv = CausalConv(3, 4, rngs=nnx.Rngs(0))
    x = normal(2, 6, 3, 5, 3)
    whole = conv(x, Carry(None))
    parts, cache, start = [], None, 0
    for size in (1, 2, 3):
        carry = Carry(cache)
        parts.append(conv(x[:, start : start + size], carry))
        start, cache = start + size, carry.cache
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-6)


def test_a_convolution_is_the_three_dimensional_one():
    conv = CausalConv(3, 4, rngs=nnx.Rngs(0))
    x = normal(2, 4, 3, 5, 3)
    padded = jnp.concatenate([x[:, :1], x[:, :1], x], axis=1)
    expected = jax.lax.conv_general_dilated(
        padded,
        conv.kernel[...],
        window_strides=(1, 1, 1),
        padding=((0, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    np.testing.assert_allclose(conv(x, Carry(None)), expected, atol=1e-5)


LATENTS = normal(1, 5, 2, 3, 3)


def test_decode_is_its_chunks_in_a_row(small_vae):
    decode_chunk = jax.jit(small_vae.decode_chunk)
    first, cache = decode_chunk(LATENTS[:, :1], None)
    second, cache = decode_chunk(LATENTS[:, 1:3], cache)
    # A cache is a value: to use it again is to get the same again.
    last, _ = decode_chunk(LATENTS[:, 3:], cache)
    again, _ = decode_chunk(LATENTS[:, 3:], cache)
    expected = jnp.concatenate([first, second, last], axis=1)
    np.testing.assert_allclose(small_vae.decode(LATENTS), expected, atol=1e-5)
    np.testing.assert_array_equal(last, again)
    forgetful, _ = decode_chunk(LATENTS[:, 3:], jax.tree.map(jnp.zeros_like, cache))
    assert np.abs(forgetful - last).max() > 1e-3


def test_later_latents_do_not_change_earlier_frames(small_vae):
    video, changed = small_vae.decode(LATENTS), small_vae.decode(LATENTS.at[:, 3:].add(1.0))
    np.testing.assert_array_equal(video[:, :5], changed[:, :5])
    assert np.abs(video[:, 5:] - changed[:, 5:]).max() > 1e-3


def test_one_video_of_a_batch_does_not_change_another(small_vae):
    two = jnp.concatenate([LATENTS[:, :1] + 1, LATENTS[:, :1]])
    np.testing.assert_allclose(
        small_vae.decode(two)[1:], small_vae.decode(LATENTS)[:, :1], atol=1e-5
    )


@pytest.mark.slow
def test_gradients_are_finite(small_vae):
    video, graphdef = normal(1, 1, 4, 6, 3), nnx.graphdef(small_vae)

    @jax.jit
    @jax.grad
    def gradient(params):
        vae = nnx.merge(graphdef, params)
        mean, logvar = vae.encode(video)
        noise = jnp.ones_like(mean)
        return jnp.mean((vae.decode(sample_latents(mean, logvar, noise)) - video) ** 2)

    gradients = jax.tree.leaves(gradient(nnx.state(small_vae, nnx.Param)))
    assert all(np.isfinite(g).all() for g in gradients)
    # Biases that a norm takes away again have none.
    assert np.mean([np.abs(g).max() > 1e-8 for g in gradients]) > 0.9


def test_bfloat16_parameters_compute_in_bfloat16(small_vae):
    half = nnx.clone(small_vae)
    nnx.update(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(half, nnx.Param)))
    video, cache = jax.jit(half.decode_chunk)(LATENTS[:, :1], None)
    assert {part.dtype for part in cache} == {jnp.dtype(jnp.bfloat16)}
    assert video.dtype == jnp.float32
    exact = small_vae.decode(LATENTS)[:, :1]
    assert 0 < np.sqrt(np.mean((video - exact) ** 2)) < 0.05 * np.std(exact)


def test_norm_statistics_are_in_float32():
    norm = GroupNorm(4, 2)
    nnx.update(norm, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(norm)))
    x = (100 + normal(1, 8, 16, 16, 4)).astype(jnp.bfloat16)
    groups = np.asarray(x, np.float64).reshape(1, 8, 16, 16, 2, 2)
    axes = (1, 2, 3, 5)
    expected = (groups - groups.mean(axes, keepdims=True)) / groups.std(axes, keepdims=True)
    np.testing.assert_allclose(
        np.asarray(norm(x), np.float64), expected.reshape(x.shape), atol=0.02, rtol=0.01
    )


def test_log_variance_is_clamped(small_vae):
    loud = nnx.clone(small_vae)
    loud.encoder.conv_out.bias[...] = jnp.asarray([0, 0, 0, 1e3, -1e3, 0.0])
    mean, logvar = loud.encode(jnp.zeros((1, 1, 2, 2, 3)))
    np.testing.assert_array_equal(logvar[0, 0, 0, 0, :2], [20, -30])
    np.testing.assert_array_equal(
        loud.encode_moments(jnp.zeros((1, 1, 2, 2, 3)))[..., :3], np.asarray(mean)
    )


def test_what_does_not_fit_is_refused(small_vae):
    with pytest.raises(ValueError, match="multiples of 2: 5x6"):
        small_vae.encode(jnp.zeros((1, 1, 5, 6, 3)))
    with pytest.raises(ValueError, match="video must have 3 channels, not 4"):
        small_vae.encode(jnp.zeros((1, 1, 4, 6, 4)))
    with pytest.raises(ValueError, match="latents must have 3 channels, not 4"):
        small_vae.decode(jnp.zeros((1, 1, 4, 6, 4)))
    with pytest.raises(ValueError, match=r"'stock' must be one of \['diffusers', 'reference'\]"):
        small_vae.decode(jnp.zeros((1, 1, 4, 6, 3)), "stock")
    with pytest.raises(ValueError, match="no frames"):
        small_vae.decode(jnp.zeros((1, 0, 4, 6, 3)))
    with pytest.raises(ValueError, match="no frames"):
        small_vae.encode(jnp.zeros((1, 0, 4, 6, 3)))


def test_configs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="multiples of norm_num_groups 3"):
        VaeConfig((4, 6), 1, norm_num_groups=3, latent_channels=3)
    with pytest.raises(ValueError, match=r"ratio 4 must be one of \[1, 2\] with 2 blocks"):
        VaeConfig((4, 4), 1, norm_num_groups=2, latent_channels=3)
    assert VaeConfig((4,) * 4, 1, 2, 16).spatial_compression == 8
