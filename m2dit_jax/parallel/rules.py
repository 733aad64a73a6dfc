"""Which device holds what of parameters, optimizer state and averages: rules by path."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from m2dit_jax.parallel.mesh import PARAMETERS

AnyMesh = Mesh | AbstractMesh

# A pattern searched for in the path, and the mesh axes that shard each of the last dimensions
# (those before them, such as the layers of stacked blocks, stay whole). The first rule holds whose
# pattern is found and whose axes divide the array. Matrices are all but everything that is large.
RULES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (r"\b(kernel|embedding)\b", (PARAMETERS, None)),  # [in, out]
    (r"\b(kernel|embedding)\b", (None, PARAMETERS)),
    (r"\bkernel_scale\b", (PARAMETERS,)),  # of quantised matrices: [out], or [blocks, out]
    (r"", ()),
)


def spec_of(path: str, shape: Sequence[int], mesh: AnyMesh) -> PartitionSpec:
    """The sharding of an array, by the first rule that fits."""
    for pattern, axes in RULES:
        if re.search(pattern, path) and _divides(axes, shape, mesh):
            before = (None,) * (len(shape) - len(axes)) if axes else ()
            return PartitionSpec(*before, *axes)
    raise AssertionError("the last rule fits everything")


def shardings(tree: Any, mesh: AnyMesh) -> Any:
    """The sharding of every array of a tree (of arrays or of their shapes)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec_of(path_name(path), x.shape, mesh)), tree
    )


def with_shardings(shapes: Any, mesh: AnyMesh) -> Any:
    """The same shapes and dtypes, with the shardings of the rules."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )


def sharding_table(tree: Any, mesh: AnyMesh) -> str:
    """A line for every array, then the sum of the bytes on each device."""
    rows, total = [], 0
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        spec = spec_of(path_name(path), x.shape, mesh)
        local = NamedSharding(mesh, spec).shard_shape(x.shape)
        size = math.prod(local) * x.dtype.itemsize
        total += size
        axes = ", ".join("-" if part is None else "+".join(part) for part in spec)
        rows.append(
            (path_name(path), "x".join(map(str, x.shape)) or "()", f"({axes})", f"{size:,}")
        )
    head = ("path", "shape", "sharded along", "bytes per device")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
    return "\n".join([*lines, f"{len(rows)} arrays, {total:,} bytes per device"])


def path_name(path: Sequence[Any]) -> str:
    """The parts of a path joined, such as params/transformer/blocks/mlp/linear_1/kernel."""
    return "/".join(
        str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))
        for entry in path
    )


def _divides(axes: Sequence[Any], shape: Sequence[int], mesh: AnyMesh) -> bool:
    if len(axes) > len(shape):
        return False
    return all(
        size % math.prod(mesh.shape[name] for name in names or ()) == 0
        for size, names in zip(shape[len(shape) - len(axes) :], axes, strict=True)
    )
