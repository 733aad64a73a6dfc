"""The causal mask by additional features of queries and keys, for any attention.

Which scenes are given is known at run time and differs between the stories of a batch, but kernels
have static masks. So queries of given scenes get a feature that keys of generated ones answer with
a logit so low that its weight is exactly zero; what remains is the symmetric mask.

Heads grow by FEATURES: of 64, products for attention by an eighth on CPUs and GPUs; on TPUs, which
fill up heads to 128 anyway, by nothing. (Two masks and a choice by row would double them.)
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# cuDNN wants a multiple of 8.
FEATURES = 8
# Their product, divided by the root of a head's dimension, must be far below any logit, also
# below those of the largest head dimensions; each must fit into float16.
ASKS, ANSWERS = 64.0, -32_768.0


def hide_generated(
    query: Float[Array, "B Q N K"],
    key: Float[Array, "B M N K"],
    value: Float[Array, "B M N K"],
    query_given: Bool[Array, "B Q"],
    key_given: Bool[Array, "B M"],
) -> tuple[Float[Array, "B Q N J"], Float[Array, "B M N J"], Float[Array, "B M N J"]]:
    """Queries, keys and values with J = K + FEATURES: given queries do not see keys not given.

    Attention divides logits by the root of J, which the queries make up for. The result's first K
    features are the attention's.
    """
    head_dim = query.shape[3]
    scale = ((head_dim + FEATURES) / head_dim) ** 0.5
    return (
        _append(query * jnp.asarray(scale, query.dtype), jnp.where(query_given, ASKS, 0.0)),
        _append(key, jnp.where(key_given, 0.0, ANSWERS)),
        jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, FEATURES))),
    )


def _append(x: Float[Array, "B M N K"], feature: Float[Array, "B M"]) -> Float[Array, "B M N J"]:
    first = jnp.broadcast_to(feature[:, :, None, None], (*x.shape[:3], 1)).astype(x.dtype)
    return jnp.concatenate([x, first, jnp.zeros((*x.shape[:3], FEATURES - 1), x.dtype)], axis=3)
