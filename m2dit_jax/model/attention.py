"""Masked attention over the joint sequence: one function, implementations by name."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from m2dit_jax.model import attention_chunks
from m2dit_jax.model.attention_cudnn import cudnn, fits_cudnn
from m2dit_jax.model.attention_grouped import chunked, grouped
from m2dit_jax.model.attention_splash import LONG_SEQUENCE, splash
from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import check_mask, scene_mask

Heads = Float[Array, "B L N K"]


def attention(
    query: Heads, key: Heads, value: Heads, layout: Layout, mask: str, implementation: str
) -> Heads:
    """Attention of the joint sequence under the named mask (`masks.scene_mask`).

    All implementations compute the same function. `auto` stands for one of them, chosen for the
    default backend; use `resolve` to choose for another. Raises ValueError for an unknown name.
    """
    check_mask(mask)
    name = resolve(implementation, query.shape, query.dtype)
    return IMPLEMENTATIONS[name](query, key, value, layout, mask)


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
    logits_bytes = 4 * batch * heads * tokens**2
    return "grouped" if logits_bytes <= attention_chunks.LOGITS_BYTES else "chunked"


def dense(query: Heads, key: Heads, value: Heads, layout: Layout, mask: str) -> Heads:
    """The definition: the whole boolean mask given to `jax.nn.dot_product_attention`."""
    allowed = scene_mask(layout, mask)[None, None]
    return jax.nn.dot_product_attention(query, key, value, mask=allowed)


IMPLEMENTATIONS: dict[str, Callable[..., Heads]] = {
    "dense": dense,
    "grouped": grouped,
    "chunked": chunked,
    "splash": splash,
    "cudnn": cudnn,
}
# Those that run on any backend.
PORTABLE = ("dense", "grouped", "chunked")
CHOICES = ("auto", *IMPLEMENTATIONS)


def check_implementation(name: str) -> None:
    """Raises ValueError if there is no attention implementation of that name."""
    if name not in CHOICES:
        raise ValueError(
            f"unknown attention implementation {name!r}; there are {', '.join(CHOICES)}"
        )
