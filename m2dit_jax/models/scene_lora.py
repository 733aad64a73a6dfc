"""Adapters of single scenes: which one changes a token is chosen by the scene that it belongs to.

So each scene of a joint story has its own, text and video, whatever the mask lets it see.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.linear import ADAPTER as NAME
from m2dit_jax.models.linear import Linear
from m2dit_jax.models.network import LoadedNetwork

Tree = Any


class SceneAdapter(nnx.Module):
    """x -> (x A * weights of the token's scene) B, of several adapters joined along the rank.

    The matrices may be stacked as the layer's own are. `place_scenes` must be called before.
    """

    by_place = True  # tokens cannot be taken in any order, or a part of them

    def __init__(
        self,
        a: Float[np.ndarray, "*L I R"],
        b: Float[np.ndarray, "*L R O"],
        weights: Float[np.ndarray, "*L P R"],
    ):
        self.a, self.b, self.weights = (
            nnx.Param(jnp.asarray(x, jnp.float32)) for x in (a, b, weights)
        )

    def place(self, scenes: Int[np.ndarray, " T"]) -> None:
        """Says which scene each token is of, as a row of the weights."""
        self.scenes = tuple(scenes.tolist())

    def __call__(self, x: Float[Array, "B T I"]) -> Float[Array, "B T O"]:
        a, b, weights = (p[...].astype(x.dtype) for p in (self.a, self.b, self.weights))
        return ((x @ a) * weights[np.array(self.scenes)]) @ b


def place_scenes(block: nnx.Module, layout: Layout) -> None:
    """Tells a block's scene adapters, if it has any, where the layout's scenes lie.

    Padding counts as the last scene, any being as good.
    """
    for _, module in nnx.iter_modules(block):
        if isinstance(module, SceneAdapter):
            module.place(layout.scene_ids() % layout.scenes)


def attach_to_scenes(
    network: LoadedNetwork, trees: Sequence[Tree], weights: Float[np.ndarray, "P K"]
) -> LoadedNetwork:
    """The network with K trees of adapters, each with a weight for each of a story's P texts.

    Adapters that its layers have already stay, for all scenes alike. Raises ValueError for an
    adapter of a layer that cannot have one.
    """
    model = nnx.merge(*network)
    flats: list[dict[Any, Any]] = [flatten_dict(tree) for tree in trees]
    texts = len(weights)
    for path in sorted({place[:-2] for flat in flats for place in flat}, key=str):
        layer: Any = model
        for name in path:
            layer = getattr(layer, name)
        if not isinstance(layer, Linear):
            raise ValueError(f"{'.'.join(path)}: adapters of single scenes are for linear layers")
        parts = [
            (flat[(*path, NAME, "a")], flat[(*path, NAME, "b")], weights[:, number])
            for number, flat in enumerate(flats)
            if (*path, NAME, "a") in flat
        ]
        if (own := getattr(layer, NAME, None)) is not None:
            parts.append((own.a[...], own.scale * own.b[...], np.ones(texts)))
        stacked = parts[0][0].shape[:-2]
        rows = [
            np.broadcast_to(of_scenes[:, None], (*stacked, texts, a.shape[-1]))
            for a, _, of_scenes in parts
        ]
        a = np.concatenate([np.asarray(a, np.float32) for a, _, _ in parts], -1)
        b = np.concatenate([np.asarray(b, np.float32) for _, b, _ in parts], -2)
        setattr(layer, NAME, SceneAdapter(a, b, np.concatenate(rows, -1).astype(np.float32)))
    graphdef, state = nnx.split(model)
    return LoadedNetwork(graphdef, nnx.to_pure_dict(state))
