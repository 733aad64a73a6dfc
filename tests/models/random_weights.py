"""Networks whose zero-initialised weights are not zero, so that every part matters."""

from typing import TypeVar

import jax
from flax import nnx

from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig

Network = TypeVar("Network", bound=nnx.Module)


def random_transformer(config: TransformerConfig) -> M2DiT:
    return with_random_weights(M2DiT(config, rngs=nnx.Rngs(0)))


def with_random_weights(network: Network) -> Network:
    graphdef, params = nnx.split(network)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))
