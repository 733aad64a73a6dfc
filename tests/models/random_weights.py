"""A transformer whose zero-initialised weights are not zero, so that every part matters."""

import jax
from flax import nnx

from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig


def random_transformer(config: TransformerConfig) -> M2DiT:
    graphdef, params = nnx.split(M2DiT(config, rngs=nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))
