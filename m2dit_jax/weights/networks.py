"""How the folders of a model's networks are opened: their configs and their weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import path_aware_map

from m2dit_jax.models.family import Json, NetworkSpec
from m2dit_jax.parallel.processes import gather_errors
from m2dit_jax.utils import digests, files
from m2dit_jax.weights.finite import FiniteScan
from m2dit_jax.weights.lazy import Leaf, Tensor, layered
from m2dit_jax.weights.mapping import Part, Tree, expected_parts, flatten, leaves_from_tensors
from m2dit_jax.weights.orbax_files import open_orbax
from m2dit_jax.weights.placing import place
from m2dit_jax.weights.quantizing import FLOAT32, quantized_leaves
from m2dit_jax.weights.safetensors_files import open_safetensors

T = TypeVar("T")
ORBAX = "params"  # in the folder of a network, instead of safetensors files


def torch_parts(network: NetworkSpec, config: Json, abstract: Tree) -> dict[str, Part]:
    """PyTorch's tensors of the network that a config.json describes."""
    return expected_parts(network.rules, abstract, network.window(config))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder. Raises ValueError if there is none."""
    if not path.exists():
        raise ValueError(
            f"{path}: no such file; a model folder has model_index.json, transformer/, vae/, "
            "text_encoder/, tokenizer/ and scheduler/"
        )
    try:
        content = files.read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: needs a JSON object, found {type(content).__name__}")
    return content


def read_json_as(read: Callable[[Json], T], path: Path) -> T:
    """What `read` makes of a JSON file. Raises ValueError, naming the file, as `read` does."""
    content = read_json(path)
    try:
        return read(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of a network's folder. Raises ValueError if there is none."""
    return read_json(directory / "config.json")


def open_leaves(
    directory: Path,
    network: NetworkSpec,
    abstract: Tree,
    dtype: np.dtype | None = None,
    scan: FiniteScan | None = None,
    quantize: str | None = None,
) -> dict[str, Leaf]:
    """Our arrays by dotted name, from the Orbax or safetensors files of a network's folder.

    No array is read yet but names and shapes; the files are compared with their digests, if they
    have some. `dtype` is what they are cast to, None keeps theirs. `scan` looks at the numbers of
    the files when they are read. `quantize` has the leaves be those of the network in 8 bits,
    which `abstract` then is.
    Raises ValueError, naming the folder, if files are missing or damaged or do not fit `abstract`.
    """
    digests.check(directory)
    if quantize is not None:  # from float32, so that weights are rounded once
        names = flatten(abstract)
        stored = network.abstract(read_config(directory))
        leaves = open_leaves(directory, network, stored, FLOAT32, scan)
        return quantized_leaves(leaves, names, quantize, dtype)
    parts = torch_parts(network, read_config(directory), abstract)
    try:
        if (directory / ORBAX).is_dir():
            shapes = {name: leaf.shape for name, leaf in flatten(abstract).items()}
            stacked = {part.leaf for part in parts.values() if part.layer is not None}
            leaves = open_orbax(directory / ORBAX, shapes, stacked)
            if scan is not None:
                leaves = {name: scan.leaf(name, leaf) for name, leaf in leaves.items()}
            return {name: leaf.cast(dtype) for name, leaf in leaves.items()}
        tensors = open_safetensors(directory)
        if scan is not None:
            tensors = {name: scan.tensor(name, tensor) for name, tensor in tensors.items()}
        return leaves_from_tensors(
            parts, {name: tensor.cast(dtype) for name, tensor in tensors.items()}
        )
    except ValueError as error:
        prefix = "" if str(directory) in str(error) else f"{directory}: "
        raise ValueError(f"{prefix}{error}") from error


def load_params(
    directory: Path,
    network: NetworkSpec,
    abstract: Tree,
    dtype: np.dtype | None = None,
    quantize: str | None = None,
    on_host: bool = False,
) -> Tree:
    """The parameters in a network's folder, Orbax or safetensors, as arrays on the devices.

    `abstract` is the tree of shapes in the files, a leaf with a sharding is placed by it. `dtype`
    is what the parameters are cast to, None keeps theirs. `quantize` has `abstract` be that of the
    network in 8 bits (`NetworkSpec.shapes`), `on_host` has the arrays be NumPy's. Beside the result
    one leaf at a time is in memory; of several processes each reads other layers. Raises ValueError
    as `open_leaves` does, and if numbers among them are infinite or NaN.
    """
    scan = FiniteScan()
    leaves = open_leaves(directory, network, abstract, dtype, scan, quantize)
    params = place_leaves(leaves, abstract, on_host)
    problem = scan.problem(directory)
    if jax.tree.leaves(abstract)[0].sharding is not None:  # then all processes load it, by parts
        problem = gather_errors(f"weights/{directory}", problem)
    if problem:
        raise ValueError(problem)
    return params


def load_tensors(
    place: Path,
    tensors: Mapping[str, Tensor],
    abstract: Tree,
    dtype: np.dtype,
    quantize: str | None = None,
    on_host: bool = False,
) -> Tree:
    """A network whose arrays are kept otherwise than in a folder of its own, such as a run's.

    As `load_params`, one leaf after another; matrices of three dimensions are stacked layers.
    Raises ValueError, naming `place`, if numbers among them are infinite or NaN.
    """
    scan = FiniteScan()
    scanned = {name: scan.tensor(name, each).cast(FLOAT32) for name, each in tensors.items()}
    stacked = {name for name, each in tensors.items() if len(each.shape) > 2}
    leaves = layered(scanned, stacked)
    if quantize is None:
        leaves = {name: leaf.cast(dtype) for name, leaf in leaves.items()}
    else:
        leaves = quantized_leaves(leaves, flatten(abstract), quantize, dtype)
    params = place_leaves(leaves, abstract, on_host)
    if problem := scan.problem(place):
        raise ValueError(problem)
    return params


def place_leaves(leaves: Mapping[str, Leaf], abstract: Tree, on_host: bool = False) -> Tree:
    """Arrays on the devices in the tree of their shapes; those with a sharding placed by it.

    `on_host` has them be NumPy's.
    """

    def load(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> jax.Array | np.ndarray:
        leaf = leaves[".".join(map(str, path))]
        if on_host:
            return leaf.read()
        array = jax.device_put(leaf.read()) if like.sharding is None else place(leaf, like.sharding)
        return array.block_until_ready()  # else the copies of several leaves would pile up

    return path_aware_map(load, abstract)
