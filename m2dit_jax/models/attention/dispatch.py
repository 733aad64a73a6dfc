"""Masked attention over the joint sequence: one function, implementations by name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from m2dit_jax.models.attention import chunks as attention_chunks
from m2dit_jax.models.attention.causal import hide_generated
from m2dit_jax.models.attention.cudnn import cudnn, fits_cudnn
from m2dit_jax.models.attention.grouped import by_head, chunked, grouped
from m2dit_jax.models.attention.splash import LONG_SEQUENCE, splash
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import (
    base_mask,
    check_given,
    depends_on_given,
    given_tokens,
    scene_mask,
)

Heads = Float[Array, "B L N K"]


def attention(
    query: Heads,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    implementation: str,
    given: Bool[Array, "B S"] | None = None,
    platform: str | None = None,
) -> Heads:
    """Attention of the joint sequence under the named mask (`masks.scene_mask`).

    All implementations compute the same function. `auto` stands for one of them, chosen for the
    platform (`resolve`). Raises ValueError for an unknown name, and for the causal mask without
    `given`.
    """
    check_given(mask, given)
    if given is None or not depends_on_given(mask):
        name = resolve(implementation, query.shape, query.dtype, platform)
        return IMPLEMENTATIONS[name](query, key, value, layout, mask)
    if implementation == "dense":
        masks = jnp.stack([scene_mask(layout, mask, story) for story in given])
        return jax.nn.dot_product_attention(query, key, value, mask=masks[:, None])
    is_given = given_tokens(layout, given)
    longer = hide_generated(query, key, value, is_given, is_given)
    name = resolve(implementation, longer[0].shape, query.dtype, platform)
    return IMPLEMENTATIONS[name](*longer, layout, base_mask(mask))[..., : query.shape[3]]


def resolve(
    implementation: str,
    shape: tuple[int, ...],
    dtype: Any,
    platform: str | None = None,
) -> str:
    """The implementation that `auto` stands for; other names stay as they are.

    `shape` is that of the query on one device: batch, tokens, heads, head dimension. `platform` is
    that of the device (default: jax's default backend). Raises ValueError for an unknown name.
    """
    check_implementation(implementation)
    if implementation != "auto":
        return implementation
    batch, tokens, heads, head_dim = shape
    platform = platform or jax.default_backend()
    if platform == "tpu" and tokens >= LONG_SEQUENCE:
        return "splash"
    if platform in ("gpu", "cuda") and fits_cudnn(head_dim, dtype):
        return "cudnn"
    if 4 * batch * heads * tokens**2 > attention_chunks.LOGITS_BYTES:
        return "chunked"
    return "by_head" if platform == "cpu" else "grouped"


def dense(query: Heads, key: Heads, value: Heads, layout: Layout, mask: str) -> Heads:
    """The definition: the whole boolean mask given to `jax.nn.dot_product_attention`."""
    allowed = scene_mask(layout, mask)[None, None]
    return jax.nn.dot_product_attention(query, key, value, mask=allowed)


IMPLEMENTATIONS: dict[str, Callable[..., Heads]] = {
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
