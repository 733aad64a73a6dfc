"""Masked attention over the joint sequence: one function, implementations by name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention.causal import hide_generated
from m2dit_jax.models.attention.cudnn import cudnn, fits_cudnn
from m2dit_jax.models.attention.grouped import by_head, chunked, grouped
from m2dit_jax.models.attention.splash import LONG_SEQUENCE, splash
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import (
    base_mask,
    check_given,
    depends_on_given,
    given_tokens,
    key_runs,
    scene_mask,
    segment_table,
)

Heads = Float[Array, "B L N K"]
Queries = Float[Array, "B Q N K"]


def attention(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    implementation: str,
    given: Bool[Array, "B S"] | None = None,
    target: Target | None = None,
    query_layout: Layout | None = None,
) -> Queries:
    """Attention of the joint sequence under the named mask (`masks.scene_mask`).

    All implementations compute the same function. `auto` stands for one of them, chosen for the
    target (`resolve`). `query_layout` is that of the queries where they are only some of each
    segment (`Layout.share`). Raises ValueError for an unknown name, and for the causal mask
    without `given`.
    """
    check_given(mask, given)
    if given is None or not depends_on_given(mask):
        name = resolve(implementation, key.shape, query.dtype, target)
        return IMPLEMENTATIONS[name](query, key, value, layout, mask, query_layout=query_layout)
    if implementation == "dense" and query_layout is None:
        masks = jnp.stack([scene_mask(layout, mask, story) for story in given])
        return jax.nn.dot_product_attention(query, key, value, mask=masks[:, None])
    query_given = given_tokens(query_layout or layout, given)
    longer = hide_generated(query, key, value, query_given, given_tokens(layout, given))
    name = resolve(implementation, longer[1].shape, query.dtype, target)
    out = IMPLEMENTATIONS[name](*longer, layout, base_mask(mask), query_layout=query_layout)
    return out[..., : query.shape[3]]


def resolve(
    implementation: str,
    shape: tuple[int, ...],
    dtype: Any,
    target: Target | None = None,
) -> str:
    """The implementation that `auto` stands for; other names stay as they are.

    `shape` is that of the keys on one device: batch, tokens, heads, head dimension. The default
    target is jax's first device. Raises ValueError for an unknown name, and for `cudnn` on a GPU
    that cuDNN has no attention for.
    """
    check_implementation(implementation)
    target = target or Target.here()
    if implementation == "cudnn" and target.without_cudnn:
        raise ValueError(f"attention 'cudnn': {target.without_cudnn}; use 'auto' or 'chunked'")
    if implementation != "auto":
        return implementation
    batch, tokens, heads, head_dim = shape
    if target.platform == "tpu" and tokens >= LONG_SEQUENCE:
        return "splash"
    if target.has_cudnn and fits_cudnn(head_dim, dtype):
        return "cudnn"
    if 4 * batch * heads * tokens**2 > attention_chunks.LOGITS_BYTES:
        return "chunked"
    return "by_head" if target.platform == "cpu" else "grouped"


def dense(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    query_layout: Layout | None = None,
) -> Queries:
    """The definition: the whole boolean mask given to `jax.nn.dot_product_attention`."""
    if query_layout is None:
        allowed = scene_mask(layout, mask)
    else:
        table = np.asarray(segment_table(layout, mask))
        keys = key_runs(layout, mask).ids()
        allowed = jnp.asarray(table[query_layout.segments()][:, keys])
    return jax.nn.dot_product_attention(query, key, value, mask=allowed[None, None])


IMPLEMENTATIONS: dict[str, Callable[..., Queries]] = {
    "dense": dense,
    "grouped": grouped,
    "by_head": by_head,
    "chunked": chunked,
    "splash": splash,
    "cudnn": cudnn,
}
# Those that run on any backend.
PORTABLE = ("dense", "grouped", "by_head", "chunked")
CHOICES = ("auto", *IMPLEMENTATIONS)


def check_implementation(name: str) -> None:
    """Raises ValueError if there is no attention implementation of that name."""
    if name not in CHOICES:
        raise ValueError(
            f"unknown attention implementation {name!r}; there are {', '.join(CHOICES)}"
        )
