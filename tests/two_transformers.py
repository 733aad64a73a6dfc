"""A tiny Wan folder of two transformers, as 2.2 A14B has them."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from m2dit_jax.models.wan.family import WAN
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.networks import torch_parts
from m2dit_jax.weights.safetensors_files import write_safetensors

GOLDEN = Path(__file__).parent / "golden_wan/pipe_wan21"
BOUNDARY = 0.875


def two_transformers(folder: Path) -> Path:
    """The golden folder of 2.1 with a second transformer, of random weights, for little noise."""
    shutil.copytree(GOLDEN, folder)
    second = folder / "transformer_2"
    second.mkdir()
    shutil.copyfile(folder / "transformer/config.json", second / "config.json")
    config = json.loads((second / "config.json").read_text())
    network = WAN.transformer
    rng = np.random.default_rng(0)
    tensors = {}
    for name, part in torch_parts(network, config, network.abstract(config)).items():
        values = rng.normal(size=part.shape, scale=0.1).astype(np.float32)
        tensors[name] = Tensor(part.shape, values.dtype, partial(np.asarray, values))
    write_safetensors(second, network.stem, tensors, 2**60)
    index = json.loads((folder / "model_index.json").read_text())
    named = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": BOUNDARY}
    (folder / "model_index.json").write_text(json.dumps(index | named, indent=2) + "\n")
    return folder


def write_adapters(path: Path, seed: int = 0) -> Path:
    """Adapters of rank 2 for each of these transformers, by the names of Wan's own release."""
    rng, tensors = np.random.default_rng(seed), {}
    for layer in ("self_attn.q", "cross_attn.v", "ffn.0"):
        outputs = 96 if layer == "ffn.0" else 64
        for name, shape in (("A", (2, 64)), ("B", (outputs, 2))):
            values = rng.normal(size=shape, scale=0.3).astype(np.float32)
            tensors[f"diffusion_model.blocks.1.{layer}.lora_{name}.weight"] = values
    save_file(tensors, path)
    return path
