"""Blocks whose parameters are stacked along a leading layer axis, run one after the other."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m2dit_jax.models.remat import REMAT

# (mask, tokens, a layer's arrays) -> the next tokens, and what is kept of the layer
RunLayer = Callable[[str, Array, Any], tuple[Array, Any]]


def with_remat(run_layer: RunLayer, remat: str, scan: bool) -> RunLayer:
    """The same function, of which the backward pass finds kept what `remat` names (REMAT)."""
    keep = REMAT[remat]
    if keep is None:
        return run_layer
    # Within a scan the compiler cannot undo the remat: nothing need keep it from that.
    return jax.checkpoint(run_layer, policy=keep, prevent_cse=not scan, static_argnums=0)


def over_layers(
    run_layer: RunLayer,
    masks: Sequence[str],
    scan: bool,
    tokens: Float[Array, "B L D"],
    layers: Any,
) -> tuple[Float[Array, "B L D"], Any]:
    """The last tokens, and what `run_layer` gives beside its tokens, stacked.

    `masks` are those of the layers, whose arrays are stacked in `layers`. Layers of one mask after
    the other are a scan of their own; without `scan` all are unrolled.
    """
    kept, start = [], 0
    for mask, group in groupby(masks):
        stop = start + len(list(group))
        if scan:
            some = layers
            if stop - start < len(masks):
                some = jax.tree.map(lambda p, span=slice(start, stop): p[span], layers)
            tokens, beside = jax.lax.scan(partial(run_layer, mask), tokens, some)
            kept.append(beside)
        else:
            for layer in range(start, stop):
                one = jax.tree.map(lambda p, i=layer: p[i], layers)
                tokens, beside = run_layer(mask, tokens, one)
                kept.append(jax.tree.map(lambda x: x[None], beside))
        start = stop
    if len(kept) == 1:
        return tokens, kept[0]
    return tokens, jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept)
