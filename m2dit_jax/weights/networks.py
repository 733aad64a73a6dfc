"""The three networks of a model folder, and how their folders are opened."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import path_aware_map

from m2dit_jax.models.cogvideox import json_configs as configs
from m2dit_jax.models.cogvideox import keys as tables
from m2dit_jax.models.cogvideox.t5 import TextEncoder
from m2dit_jax.models.cogvideox.transformer import M2DiT
from m2dit_jax.models.cogvideox.vae import CausalVae
from m2dit_jax.models.cogvideox.vae_keys import VAE
from m2dit_jax.models.key_rules import Rule
from m2dit_jax.weights.lazy import Leaf
from m2dit_jax.weights.mapping import (
    Part,
    Shape,
    Tree,
    expected_parts,
    flatten,
    leaves_from_tensors,
)
from m2dit_jax.weights.orbax_files import open_orbax
from m2dit_jax.weights.safetensors_files import open_safetensors

ORBAX = "params"  # in the folder of a network, instead of safetensors files
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """What is particular to one of the networks.

    `stem` begins the names of its PyTorch files; `window` is as in `expected_parts`.
    """

    table: tuple[Rule, ...]
    stem: str
    make: Callable[[Json, nnx.Rngs], nnx.Module]
    window: Callable[[Json], Shape]

    def abstract(self, config: Json) -> Tree:
        """Shapes of the parameters of the network that a config.json describes.

        Raises ValueError for a network that does not exist here.
        """
        model = nnx.eval_shape(lambda: self.make(config, nnx.Rngs(0)))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def parts(self, config: Json, abstract: Tree) -> dict[str, Part]:
        """PyTorch's tensors of the network that a config.json describes."""
        return expected_parts(self.table, abstract, self.window(config))


def _patch_window(config: Json) -> Shape:
    if config.get("patch_size_t") is not None:  # CogVideoX 1.5: a linear layer
        return ()
    return (config.get("patch_size", 2),) * 2


NETWORKS = {
    "transformer": Network(
        tables.TRANSFORMER,
        "diffusion_pytorch_model",
        lambda config, rngs: M2DiT(configs.transformer_config(config), rngs=rngs),
        _patch_window,
    ),
    "vae": Network(
        VAE,
        "diffusion_pytorch_model",
        lambda config, rngs: CausalVae(configs.vae_config(config), rngs=rngs),
        lambda config: (1, 1, 1),
    ),
    "text_encoder": Network(
        tables.TEXT_ENCODER,
        "model",
        lambda config, rngs: TextEncoder(configs.text_encoder_config(config), rngs=rngs),
        lambda config: (),
    ),
}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder. Raises ValueError if there is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; a model folder has model_index.json, transformer/, vae/, "
            "text_encoder/, tokenizer/ and scheduler/"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: needs a JSON object, found {type(content).__name__}")
    return content


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of a network's folder. Raises ValueError if there is none."""
    return read_json(directory / "config.json")


def open_leaves(
    directory: Path, network: Network, abstract: Tree, dtype: np.dtype | None = None
) -> dict[str, Leaf]:
    """Our arrays by dotted name, from the Orbax or safetensors files of a network's folder.

    Nothing is read yet but names and shapes. `dtype` is what they are cast to, None keeps theirs.
    Raises ValueError, naming the folder, if files are missing or damaged or do not fit `abstract`.
    """
    parts = network.parts(read_config(directory), abstract)
    try:
        if (directory / ORBAX).is_dir():
            shapes = {name: leaf.shape for name, leaf in flatten(abstract).items()}
            stacked = {part.leaf for part in parts.values() if part.layer is not None}
            leaves = open_orbax(directory / ORBAX, shapes, stacked)
            return {name: leaf.cast(dtype) for name, leaf in leaves.items()}
        tensors = open_safetensors(directory)
        return leaves_from_tensors(
            parts, {name: tensor.cast(dtype) for name, tensor in tensors.items()}
        )
    except ValueError as error:
        prefix = "" if str(directory) in str(error) else f"{directory}: "
        raise ValueError(f"{prefix}{error}") from error


def load_params(
    directory: Path, network: Network, abstract: Tree, dtype: np.dtype | None = None
) -> Tree:
    """The parameters in a network's folder, Orbax or safetensors, as arrays on the devices.

    `abstract` is the tree of shapes; a leaf with a sharding is placed by it. `dtype` is what the
    parameters are cast to, None keeps theirs. Beside the result one leaf at a time is in memory.
    Raises ValueError as `open_leaves` does.
    """
    leaves = open_leaves(directory, network, abstract, dtype)

    def load(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        values = leaves[".".join(map(str, path))].read()
        if like.sharding is None:
            array = jax.device_put(values)
        else:  # device_put would compare the values of all hosts
            array = jax.make_array_from_callback(values.shape, like.sharding, values.__getitem__)
        return array.block_until_ready()  # else the copies of several leaves would pile up

    return path_aware_map(load, abstract)
