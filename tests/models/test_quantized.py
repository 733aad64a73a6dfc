from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m2dit_jax.models.cogvideox.layers import FeedForward
from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.models.linear import Linear, quantizable, quantize_layers
from m2dit_jax.models.lora import attach_adapters
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.quantized import (
    FORMS,
    NF4_VALUES,
    SCALE,
    cast_floats,
    dequantize,
    product,
    quantize,
)
from m2dit_jax.weights.quantizing import quantize_params
from tests.models.random_weights import random_transformer

CONFIG = TransformerConfig(
    channels=2, patch_size=2, layers=2, heads=1, head_dim=16, text_dim=4, time_dim=4
)
LAYERS = {"modulation1", "modulation2", "to_q", "to_k", "to_v", "to_out", "linear_1", "linear_2"}
# Root mean square error of v, of the root mean square of v, as measured here with some room.
MOST_ERROR = {"int8": 0.01, "int8_w8a8": 0.02, "fp8": 0.05}


def test_a_matrix_by_hand():
    kernel = np.array([[127.0, 0.0, 1.0], [-63.6, 0.0, -2.54]], np.float32)
    rounded, scale = quantize(kernel, "int8")
    assert rounded.dtype == np.int8 and scale.dtype == np.float32
    np.testing.assert_allclose(scale, [1, 1, 0.02], rtol=1e-6)
    np.testing.assert_array_equal(rounded, [[127, 0, 50], [-64, 0, -127]])
    x = jnp.array([[1.0, -2.0]])
    for form in FORMS:
        out = product(x, *map(jnp.asarray, quantize(kernel, form)), form == "int8_w8a8")
        np.testing.assert_allclose(out, x @ kernel, rtol=0.08, atol=0.08)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_no_weight_moves_by_more_than_half_a_step(kernel):
    largest = np.abs(kernel).max(1, keepdims=True)
    for form, step in (
        ("int8", largest / 127),
        ("fp8", np.maximum(abs(kernel) / 8, largest / 2e5)),
    ):
        back = dequantize(*quantize(kernel, form))
        assert np.all(np.abs(back - kernel) <= 0.5001 * step + 1e-30)


def quantized(model, form, config=CONFIG):
    """The same transformer in 8 bits."""
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    graphdef, abstract = DEFAULT.transformer.shapes(config, form)
    return LoadedNetwork(graphdef, quantize_params(params, abstract, form))


@pytest.fixture(scope="module")
def model():
    return random_transformer(CONFIG)


def inputs():
    keys = jax.random.split(jax.random.key(2))
    latents = jax.random.normal(keys[0], (1, 2, 1, 4, 4, 2))
    return latents, jax.random.normal(keys[1], (1, 2, 3, 4)), jnp.array([[0, 500]])


def v_of(graphdef, params):
    return jax.jit(lambda params: nnx.merge(graphdef, params)(*inputs()))(params)


def error(found, true):
    return float(jnp.sqrt(jnp.mean((found - true) ** 2) / jnp.mean(true**2)))


@pytest.mark.parametrize("form", FORMS)
def test_what_should_be_in_8_bits_is_and_v_stays(model, form):
    """The layers are stacked: a library that does not know of that leaves them silently."""
    found = quantized(model, form)
    flat = flatten_dict(found.params)
    small = {path for path, x in flat.items() if np.asarray(x).dtype.itemsize == 1}
    assert {path[-2] if path[-2] != "linear" else path[-3] for path in small} == LAYERS
    assert all(path[0] == "blocks" and path[-1] == "kernel" for path in small)
    for path in small:
        layers, _, outputs = flat[path].shape
        assert flat[(*path[:-1], SCALE)].shape == (layers, outputs)
    matrices = sum(np.asarray(flat[path]).nbytes for path in small)
    floats = nnx.to_pure_dict(nnx.state(model.blocks, nnx.Param))
    assert matrices == sum(x.size for p, x in flatten_dict(floats).items() if p[-1] == "kernel")
    v = v_of(*found)
    assert 0 < error(v, v_of(*nnx.split(model))) < MOST_ERROR[form]
    unrolled = quantized(model, form, replace(CONFIG, scan=False))
    np.testing.assert_allclose(v_of(*unrolled), v, atol=1e-5)


def test_adapters_stay_beside_matrices_in_8_bits(model):
    keys = jax.random.split(jax.random.key(3), 4)
    shapes = ((2, 16, 3), (2, 3, 16), (2, 16, 1), (2, 1, 16))
    a, b, c, d = (
        np.asarray(0.5 * jax.random.normal(k, s)) for k, s in zip(keys, shapes, strict=True)
    )
    trees = [
        ({"blocks": {"attention": {"to_q": {"lora": {"a": a, "b": b}}}}}, 0.5),
        ({"blocks": {"attention": {"to_q": {"lora": {"a": c, "b": d}}}}}, 2.0),
    ]
    whole = model.blocks.attention.to_q.kernel[...] + 0.5 * a @ b + 2 * c @ d
    plain = nnx.split(model)
    other = nnx.to_pure_dict(plain[1])
    other["blocks"]["attention"]["to_q"]["kernel"] = whole
    true = v_of(plain[0], other)
    adapted = attach_adapters(quantized(model, "int8"), trees)
    assert adapted.params["blocks"]["attention"]["to_q"]["lora"]["a"].shape == (2, 16, 4)
    assert adapted.params["blocks"]["attention"]["to_q"]["kernel"].dtype == np.int8
    assert error(v_of(*adapted), true) < MOST_ERROR["int8"] < error(v_of(*plain), true)


def test_only_the_layers_of_a_text_encoder_and_no_table_are_in_8_bits():
    config = DEFAULT.text_encoder_config(
        vocab_size=5, d_model=4, d_kv=2, d_ff=6, num_layers=1, num_heads=2
    )
    _, abstract = DEFAULT.text_encoder.shapes(config, "int8")
    flat = flatten_dict(abstract)
    small = {path[-2] for path, like in flat.items() if like.dtype == jnp.int8}
    assert small == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    assert flat[("embed", "embedding")].dtype == jnp.float32


def test_a_layer_for_few_inputs_has_none_rounded():
    layer = Linear(3, 2, rngs=nnx.Rngs(0))
    x = jnp.array([[1.0, 0.001, -0.3]])
    kernel, scale = quantize(np.asarray(layer.kernel[...]), "int8")
    outs = []
    for few in (False, True):
        layer = quantize_layers(nnx.Dict(only=Linear(3, 2, rngs=nnx.Rngs(0))), "int8_w8a8").only
        layer.few_inputs = few
        layer.kernel[...], layer.kernel_scale[...] = jnp.asarray(kernel), jnp.asarray(scale)
        outs.append(layer(x))
    np.testing.assert_allclose(outs[1], x @ dequantize(kernel, scale), rtol=1e-6)
    assert not np.array_equal(outs[0], outs[1])
    assert quantizable(nnx.Dict(only=layer))


def test_the_arithmetic_is_that_of_qwix():
    qwix = pytest.importorskip("qwix", reason="optional extra: qwix")
    kernel = np.asarray(jax.random.normal(jax.random.key(0), (8, 4)))
    x = jax.random.normal(jax.random.key(1), (3, 8))
    theirs = qwix.quantize(jnp.asarray(kernel), "int8", channelwise_axes=(1,))
    ours = quantize(kernel, "int8")
    # It has the largest weight at 127.5, which is then cut off to 127.
    assert np.abs(ours[0].astype(int) - np.asarray(theirs.qvalue, int)).max() <= 1
    np.testing.assert_allclose(ours[1] * 127, theirs.scale[0] * 127.5, rtol=1e-6)
    out = qwix.dot_general(x, theirs, (((1,), (0,)), ((), ())))
    assert error(product(x, *map(jnp.asarray, ours)), out) < 0.01


def test_feed_forward_in_chunks_is_the_same(model):
    chunked, _ = DEFAULT.transformer.shapes(replace(CONFIG, feed_forward_chunk=4))
    graphdef, params = nnx.split(model)
    np.testing.assert_allclose(v_of(chunked, params), v_of(graphdef, params), atol=1e-6)
    assert FeedForward(4, 3, rngs=nnx.Rngs(0)).chunk == 3


def test_nf4_by_hand():
    kernel = np.zeros((128, 1), np.float32)
    kernel[:64, 0], kernel[64:, 0] = 2 * np.repeat(NF4_VALUES, 4), 0.5
    packed, scale = quantize(kernel, "nf4")
    assert (packed.shape, packed.dtype) == ((64, 1), np.uint8)
    np.testing.assert_array_equal(scale, [[2.0], [0.5]])
    assert packed[0, 0] == 0 and packed[2, 0] == 0x11 and packed[31, 0] == packed[32, 0] == 0xFF
    np.testing.assert_allclose(dequantize(packed, scale), kernel, rtol=1e-6)
    x = jnp.ones((1, 128))
    np.testing.assert_allclose(product(x, jnp.asarray(packed), jnp.asarray(scale)), x @ kernel)
    with pytest.raises(ValueError, match="two inputs in a byte, a layer has 3; int8 would do"):
        quantize(kernel[:3], "nf4")


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (2, 6, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_nf4_takes_the_nearest_of_its_values(kernel):
    packed, scale = quantize(kernel, "nf4")
    scale = np.repeat(scale, 2, axis=1)
    distance = np.abs(kernel[..., None] - scale[..., None] * NF4_VALUES).min(-1)
    back = dequantize(packed, scale[:, ::2])
    np.testing.assert_allclose(np.abs(back - kernel), distance, atol=1e-5 * scale.max())


def test_a_transformer_in_4_bits(model):
    """Half the bytes of int8, and as scattered as weights without a pattern can be."""
    found = quantized(model, "nf4")
    flat = flatten_dict(found.params)
    small = [x for x in flat.values() if np.asarray(x).dtype == np.uint8]
    floats = nnx.to_pure_dict(nnx.state(model.blocks, nnx.Param))
    matrices = sum(x.size for p, x in flatten_dict(floats).items() if p[-1] == "kernel")
    assert 2 * sum(x.nbytes for x in small) == matrices
    assert MOST_ERROR["int8"] < error(v_of(*found), v_of(*nnx.split(model))) < 0.2
    half = cast_floats(found.params, jnp.bfloat16)
    kept = {p[-1] for p, x in flatten_dict(half).items() if x.dtype != jnp.bfloat16}
    assert kept == {"kernel", SCALE}
