"""The mapping between PyTorch's tensors and our arrays, checked as a whole and carried out lazily.

Our arrays ("leaves") are named by their path in the tree of parameters, with dots between its keys.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from m2dit_jax.models.key_rules import CHANGES, Change, Rule
from m2dit_jax.weights.lazy import Leaf, Tensor

Tree = Any
Shape = tuple[int, ...]
# T5's table of embeddings has two names in PyTorch; some files hold it under both.
_FIRST_NAME = {"encoder.embed_tokens.weight": "shared.weight"}
_SHOWN = 8  # names of a kind in a message


@dataclass(frozen=True)
class Part:
    """A leaf, or if it is stacked its layer, as a tensor of PyTorch's with this shape."""

    leaf: str
    layer: int | None
    shape: Shape
    change: Change
    other: str = ""
    """One more name of the tensor, in files of adapters."""


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by their dotted names; numbers are keys of lists of layers."""
    return {".".join(map(str, path)): leaf for path, leaf in flatten_dict(tree).items()}


def expected_parts(table: Sequence[Rule], abstract: Tree, window: Shape) -> dict[str, Part]:
    """The tensors that PyTorch must have for our `abstract` parameters, by PyTorch's names.

    `window` is that of the convolutions which are linear layers here ("patch" in the table), empty
    if they are linear layers there too. Raises ValueError if the table lacks a leaf.
    """
    parts: dict[str, Part] = {}
    homeless = []
    for leaf, like in flatten(abstract).items():
        rule = next((rule for rule in table if rule.torch_names(leaf) is not None), None)
        if rule is None:
            homeless.append(leaf)
            continue
        layers, shape = (like.shape[0], like.shape[1:]) if rule.layer_axis else (1, like.shape)
        torch_shape, change = _torch_shape(rule, shape, window), CHANGES[rule.change]
        names = rule.torch_names(leaf, layers) or [], rule.other_names(leaf, layers) or []
        for number, (name, other) in enumerate(zip(*names, strict=True)):
            layer = number if rule.layer_axis else None
            parts[name] = Part(leaf, layer, torch_shape, change, other)
    if homeless:
        raise ValueError(f"the key table has no rule for {_some(homeless)}")
    return parts


def leaves_from_tensors(
    parts: Mapping[str, Part], tensors: Mapping[str, Tensor]
) -> dict[str, Leaf]:
    """Our leaves, whose pieces read PyTorch's tensors.

    Raises ValueError with all names that are missing, unexpected or of another shape, and with the
    leaves whose layers have different dtypes.
    """
    tensors = _without_second_names(tensors)
    check_shapes(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: part.shape for name, part in parts.items()},
    )
    pieces: dict[str, list[Tensor]] = {}
    stacked: dict[str, bool] = {}
    for name, part in parts.items():  # in the order of the layers
        pieces.setdefault(part.leaf, []).append(_to_jax(part, tensors[name]))
        stacked[part.leaf] = part.layer is not None
    mixed = [
        f"{leaf} ({', '.join(sorted(dtypes))})"
        for leaf, parts_of_leaf in pieces.items()
        if len(dtypes := {str(piece.dtype) for piece in parts_of_leaf}) > 1
    ]
    if mixed:
        raise ValueError(
            f"the layers of {_some(mixed)} have different dtypes; choose one (--dtype)"
        )
    return {leaf: Leaf(tuple(pieces[leaf]), stacked[leaf]) for leaf in pieces}


def tensors_from_leaves(parts: Mapping[str, Part], leaves: Mapping[str, Leaf]) -> dict[str, Tensor]:
    """PyTorch's tensors, which read our leaves."""
    return {
        name: _to_torch(part, leaves[part.leaf].pieces[part.layer or 0])
        for name, part in parts.items()
    }


def check_shapes(found: Mapping[str, Shape], needed: Mapping[str, Shape]) -> None:
    """Compares names and shapes.

    Raises ValueError with the first names that are missing or unexpected, and all that are of
    another shape.
    """
    problems = {
        "missing": [f"{name} {shape}" for name, shape in needed.items() if name not in found],
        "unexpected": [f"{name} {shape}" for name, shape in found.items() if name not in needed],
    }
    lines = [f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names]
    shapes = {
        name: f"(found {found[name]}, needs {shape})"
        for name, shape in needed.items()
        if name in found and found[name] != shape
    }
    if shapes:
        lines.append(f"{len(shapes)} of another shape: {', '.join(_by_layers(shapes))}")
    if lines:
        raise ValueError("\n".join(lines))


def _torch_shape(rule: Rule, shape: Shape, window: Shape) -> Shape:
    """The shape that PyTorch has for one of ours (without the layer axis)."""
    if rule.change == "patch":
        values, width = shape
        return (width, values // math.prod(window), *window)
    # A single number that looks like an array of the shape: the change is tried on no memory
    return CHANGES[rule.change].to_torch(np.broadcast_to(np.int8(0), shape), ()).shape


def _to_jax(part: Part, tensor: Tensor) -> Tensor:
    shape = part.change.to_jax(np.broadcast_to(np.int8(0), tensor.shape)).shape
    return Tensor(shape, tensor.dtype, lambda: part.change.to_jax(tensor.read()))


def _to_torch(part: Part, piece: Tensor) -> Tensor:
    return Tensor(part.shape, piece.dtype, lambda: part.change.to_torch(piece.read(), part.shape))


def _without_second_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out second names whose shape equals that of the first."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in _FIRST_NAME or shapes.get(_FIRST_NAME[name]) != tensor.shape
    }


def _by_layers(texts: Mapping[str, str]) -> list[str]:
    """All names with their texts; layers of which the same is said have one entry, with *."""
    layers: dict[tuple[str, str], list[str]] = {}
    for name, text in texts.items():
        layers.setdefault((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), text), []).append(name)
    return [
        f"{names[0] if len(names) == 1 else pattern} {text}"
        for (pattern, text), names in layers.items()
    ]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, and {len(names) - _SHOWN} more"
