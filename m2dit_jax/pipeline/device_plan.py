"""The plan of memory for a model folder on the device that is there."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.pipeline.memory_plan import (
    ACTIVATIONS,
    MORE_ACTIVATIONS,
    MemoryPlan,
    Needs,
    StorySize,
    advice,
    choose_plan,
    param_bytes,
)
from m2dit_jax.weights.released import DTYPES, Precision, ReleasedModel

Say = Callable[[str], None]
_BLOCKS = "blocks"


def plan_memory(
    folder: ReleasedModel,
    precision: Precision,
    memory: str,
    mesh: Mesh,
    say: Say,
    size: StorySize,
) -> MemoryPlan:
    """The plan for a story of that size on the mesh's devices; says what would fit if it does not.

    Where nobody tells how much memory a device has, as on CPUs, everything is taken to fit.
    """
    device = mesh.devices.flat[0]
    needs = folder_needs(folder, precision, size, device.platform, mesh.size)
    streams = mesh.size == 1 and hasattr(folder.family.transformer.make, "run_layer")
    limit = device_limit(device)
    on_host = device.platform != "cpu" and cpu_device() is not None
    plan = choose_plan(memory, needs, limit, on_host, streams)
    if not plan.fits:

        def needs_with(form: str) -> Needs:
            other = Precision(precision.dtype, form or precision.quantize)
            return folder_needs(folder, other, size, device.platform, mesh.size)

        say(advice(plan, needs_with, streams))
    return plan


def folder_needs(
    folder: ReleasedModel,
    precision: Precision,
    size: StorySize,
    platform: str,
    devices: int = 1,
) -> Needs:
    """Bytes of a folder's networks, and of a story; the transformer is shared by `devices`."""
    config, dtype = folder.transformer_config, DTYPES[precision.dtype]
    frames, rows, columns, _ = folder.latent_shape(size.frames, size.height, size.width)
    tokens = size.scenes * (folder.text_length + config.scene_tokens(frames, rows, columns))
    family = folder.family
    transformer = family.transformer.shapes(config, precision.quantize)[1]
    text_encoder = family.text_encoder.shapes(folder.text_encoder_config, precision.quantize)[1]
    graph, vae = family.vae.shapes(folder.vae_config)
    outside = {name: part for name, part in transformer.items() if name != _BLOCKS}
    blocks = jax.tree.leaves(transformer[_BLOCKS])[0].shape[0]
    block = param_bytes(transformer[_BLOCKS], dtype) // blocks
    # Of a VAE in float32, as its shapes are.
    decoding = nnx.merge(graph, vae).decoding_bytes(frames, rows, columns, platform)
    return Needs(
        text_encoder=param_bytes(text_encoder, dtype),
        outside=param_bytes(outside, dtype),
        block=block // devices,
        blocks=blocks,
        vae=param_bytes(vae, dtype),
        tokens=tokens * config.width * dtype.itemsize // devices,
        rows=size.rows,
        decoding=decoding * dtype.itemsize // 4,
        activations=ACTIVATIONS.get(platform, ACTIVATIONS["gpu"])
        * MORE_ACTIVATIONS.get(precision.quantize or "", 1.0),
        transformers=1 + folder.has_second,
    )


def device_limit(device: Any) -> int | None:
    """Bytes that JAX may take of a device; None if it does not tell, as of a CPU."""
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(limit)


def cpu_device() -> Any | None:
    """The host's CPU as a device of JAX; None where JAX_PLATFORMS leaves it out."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def on_host_cpu(load: Callable[[], LoadedNetwork]) -> LoadedNetwork:
    """A network that is loaded to, and works on, the host's CPU."""
    cpu = cpu_device()
    with jax.default_device(cpu):
        network = load()
    return LoadedNetwork(network.graphdef, jax.device_put(network.params, cpu))
