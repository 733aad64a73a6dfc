"""Low-rank adapters (LoRA, arXiv 2106.09685): a linear layer's W becomes W + scale A B.

Adapters are parameters of the model beside its own, under `lora` of the layer that they change:
`blocks.attention.to_q.lora.a`. So they are trained alone, kept alone, and added to W when a model
is loaded for sampling.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key

from m2dit_jax.models.linear import ADAPTER, Linear
from m2dit_jax.models.network import LoadedNetwork

Tree = Any
NAME = ADAPTER
Matrix = Array | np.ndarray


class Adapter(nnx.Module):
    """x -> scale (x A) B; B starts at zero, so that a fresh adapter changes nothing.

    The matrices may be stacked as the layer's own are.
    """

    def __init__(self, kernel_shape: tuple[int, ...], rank: int, scale: float, key: Key[Array, ""]):
        *stacked, inputs, outputs = kernel_shape
        spread = inputs**-0.5
        self.a = nnx.Param(spread * jax.random.normal(key, (*stacked, inputs, rank)))
        self.b = nnx.Param(jnp.zeros((*stacked, rank, outputs)))
        self.scale = scale

    @classmethod
    def of(cls, a: Float[Array, "*L I R"], b: Float[Array, "*L R O"], scale: float) -> "Adapter":
        """The adapter with these matrices."""
        shape = (*a.shape[:-1], b.shape[-1])
        adapter = nnx.eval_shape(lambda: cls(shape, a.shape[-1], scale, jax.random.key(0)))
        adapter.a, adapter.b = nnx.Param(a), nnx.Param(b)
        return adapter

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        a, b = self.a[...], self.b[...]
        return ((x @ a.astype(x.dtype)) @ b.astype(x.dtype)) * self.scale


def add_adapters(
    layers: nnx.Module, targets: tuple[str, ...], rank: int, scale: float, rngs: nnx.Rngs
) -> None:
    """Gives an adapter to each linear layer whose name is one of the targets.

    Raises ValueError for a target that no linear layer has.
    """
    found = {
        path: module
        for path, module in nnx.iter_modules(layers)
        if isinstance(module, Linear) and path[-1] in targets
    }
    if missing := set(targets) - {path[-1] for path in found}:
        raise ValueError(f"no linear layer is called {', '.join(sorted(missing))}")
    for _, module in sorted(found.items(), key=lambda each: [str(part) for part in each[0]]):
        setattr(module, NAME, Adapter(module.kernel.shape, rank, scale, rngs.params()))


def adapter_scale(rank: int, alpha: float) -> float:
    """The factor of what adapters make: alpha / rank, 1 where alpha is 0."""
    return (alpha or rank) / max(rank, 1)


def is_adapter(path: tuple[Any, ...]) -> bool:
    """Whether the parameter at a path is one of an adapter."""
    return NAME in path


def split_adapters(params: Tree) -> tuple[Tree, Tree]:
    """A model's own parameters, and those of its adapters."""
    flat = flatten_dict(params)
    return (
        unflatten_dict({path: leaf for path, leaf in flat.items() if not is_adapter(path)}),
        unflatten_dict({path: leaf for path, leaf in flat.items() if is_adapter(path)}),
    )


def join_adapters(own: Tree, adapters: Tree) -> Tree:
    """The inverse of `split_adapters`."""
    return unflatten_dict(flatten_dict(own) | flatten_dict(adapters))


def merge(
    kernel: Float[Matrix, "*L I O"], adapter: Mapping[str, Matrix], scale: float
) -> Float[Array, "*L I O"]:
    """W + scale A B, added in float32, in the dtype of W."""
    a, b = (jnp.asarray(adapter[name], jnp.float32) for name in ("a", "b"))
    return (jnp.asarray(kernel, jnp.float32) + scale * (a @ b)).astype(kernel.dtype)


def merge_adapters(own: Tree, adapters: Tree, scale: float) -> Tree:
    """The model's parameters with all adapters added to them."""
    flat: dict[Any, Any] = flatten_dict(own)
    changed: dict[Any, Any] = flatten_dict(adapters)
    for path in {path[:-2] for path in changed}:  # that of the layer
        matrices = {name: changed[(*path, NAME, name)] for name in ("a", "b")}
        flat[(*path, "kernel")] = merge(flat[(*path, "kernel")], matrices, scale)
    return unflatten_dict(flat)


def attach_adapters(
    network: LoadedNetwork, adapters: Sequence[tuple[Tree, float]]
) -> LoadedNetwork:
    """The network with several trees of adapters, each with its factor, beside its own matrices.

    A layer's are joined into one of all their ranks, with the one that it has already. Layers that
    cannot have one are changed as by `merge_adapters`.
    """
    model = nnx.merge(*network)
    trees: list[dict[Any, Any]] = [flatten_dict(tree) for tree, _ in adapters]
    for path in {place[:-2] for tree in trees for place in tree}:
        layer: Any = model
        for name in path:
            layer = layer[name] if isinstance(name, int) else getattr(layer, name)
        pairs = [
            (tree[(*path, NAME, "a")], factor * np.asarray(tree[(*path, NAME, "b")]))
            for tree, (_, factor) in zip(trees, adapters, strict=True)
            if (*path, NAME, "a") in tree
        ]
        if (own := getattr(layer, NAME, None)) is not None:
            pairs.append((np.asarray(own.a[...]), own.scale * np.asarray(own.b[...])))
        a, b = np.concatenate([a for a, _ in pairs], -1), np.concatenate([b for _, b in pairs], -2)
        kernel = layer.kernel[...]
        if not isinstance(layer, Linear):
            layer.kernel = nnx.Param(merge(kernel, {"a": a, "b": b}, 1.0))
            continue
        dtype = jnp.float32 if layer.bias is None else layer.bias.dtype
        setattr(layer, NAME, Adapter.of(jnp.asarray(a, dtype), jnp.asarray(b, dtype), 1.0))
    graphdef, state = nnx.split(model)
    return LoadedNetwork(graphdef, nnx.to_pure_dict(state))


def dropout(key: Key[Array, ""], adapters: Tree, share: float) -> Tree:
    """The adapters without a share of the inputs of each A, the others scaled up for them.

    Which inputs a layer lacks is drawn once for all tokens, unlike in PEFT: so the model need not
    know of it.
    """
    if not share:
        return adapters
    flat: dict[Any, Any] = flatten_dict(adapters)
    for number, path in enumerate(sorted(flat, key=str)):
        if path[-1] != "a":
            continue
        a = flat[path]
        kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - share, (*a.shape[:-1], 1))
        flat[path] = jnp.where(kept, a / (1 - share), 0)
    return unflatten_dict(flat)
