"""The flash attention of cuDNN on GPUs, which knows no scene mask: one call per group."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m2dit_jax.models.attention.grouped import grouped
from m2dit_jax.models.layout import Layout

Heads = Float[Array, "B L N K"]
Queries = Float[Array, "B Q N K"]

DTYPES = ("bfloat16", "float16")
MOST_HEAD_DIM = 128


def cudnn(
    query: Queries,
    key: Heads,
    value: Heads,
    layout: Layout,
    mask: str,
    backend: Literal["cudnn", "xla"] = "cudnn",
    query_layout: Layout | None = None,
) -> Queries:
    """Each group with cuDNN's attention; the same without cuDNN with `backend` "xla".

    Raises ValueError for a dtype or head dimension that cuDNN does not take (`xla` takes all).
    """
    head_dim = query.shape[3]
    if backend == "cudnn" and not fits_cudnn(head_dim, query.dtype):
        raise ValueError(
            f"attention 'cudnn' takes {' and '.join(DTYPES)} and head dimensions that are a "
            f"multiple of 8 and at most {MOST_HEAD_DIM}, got {query.dtype} and {head_dim}: use "
            "'chunked', or 'auto', which chooses"
        )
    attend = partial(attend_even, backend=backend)
    return grouped(query, key, value, layout, mask, attend, False, query_layout)


def fits_cudnn(head_dim: int, dtype: Any) -> bool:
    """Whether cuDNN has a kernel, forward and backward on all its GPUs."""
    return jnp.dtype(dtype).name in DTYPES and head_dim % 8 == 0 and head_dim <= MOST_HEAD_DIM


def attend_even(
    query: Float[Array, "B Q N K"],
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
    backend: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B Q N K"]:
    """Attention with odd lengths filled up, as the backward pass of cuDNN wants even ones."""
    batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    if queries % 2 == 0 and keys % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation=backend)
    out = jax.nn.dot_product_attention(
        *(jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)),
        query_seq_lengths=jnp.full(batch, queries, jnp.int32),
        key_value_seq_lengths=jnp.full(batch, keys, jnp.int32),
        implementation=backend,
    )
    return out[:, :queries]
