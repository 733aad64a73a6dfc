"""Model folders of networks that are as small as they can be, of random numbers."""

import json
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from m2dit_jax.models.families import DEFAULT
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.networks import torch_parts
from m2dit_jax.weights.safetensors_files import write_safetensors

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)
NETWORKS = DEFAULT.networks
CONFIGS = {
    "transformer": {
        "_class_name": "CogVideoXTransformer3DModel",
        "num_attention_heads": 1,
        "attention_head_dim": 16,
        "in_channels": 2,
        "out_channels": 2,
        "time_embed_dim": 4,
        "text_embed_dim": 6,
        "num_layers": 3,
        "patch_size": 2,
        "use_rotary_positional_embeddings": True,
    },
    "vae": {
        "_class_name": "AutoencoderKLCogVideoX",
        "block_out_channels": [4, 4, 8, 8],
        "latent_channels": 2,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "text_encoder": {
        "architectures": ["T5EncoderModel"],
        "vocab_size": 11,
        "d_model": 6,
        "d_kv": 4,
        "d_ff": 8,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "torch_dtype": "float32",
    },
}
NO_LIMIT = 2**60


def tiny_tensors(kind: str, dtype=FLOAT32, **changes) -> dict[str, Tensor]:
    """What PyTorch would have saved of a network; `changes` are to its config."""
    config = CONFIGS[kind] | changes
    parts = torch_parts(NETWORKS[kind], config, NETWORKS[kind].abstract(config))
    rng = np.random.default_rng(0)
    tensors = {}
    for name, part in parts.items():
        values = rng.normal(size=part.shape).astype(dtype)
        tensors[name] = Tensor(part.shape, dtype, partial(np.asarray, values))
    return tensors


def tiny_network(
    folder: Path, kind: str, dtype=FLOAT32, max_shard_bytes: int = NO_LIMIT, **changes
) -> Path:
    """The folder of one network as diffusers and transformers save it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | changes, indent=2) + "\n")
    tensors = tiny_tensors(kind, dtype, **changes)
    write_safetensors(folder, NETWORKS[kind].stem, tensors, max_shard_bytes)
    return folder


def tiny_model(folder: Path, dtype=FLOAT32, kinds=("transformer", "text_encoder")) -> Path:
    """A model folder; without the VAE by default, whose many arrays take a second to save."""
    for kind in kinds:
        tiny_network(folder / kind, kind, dtype)
    index = {"_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", "X"]}
    index |= {kind: ["diffusers", "X"] for kind in CONFIGS}
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, text in {
        "scheduler/scheduler_config.json": '{"snr_shift_scale": 1.0}',
        "tokenizer/spiece.model": "pieces",
        ".cache/hidden": "not to be copied",
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of all files below by relative path, but for hidden ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != "digests.json"
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }
