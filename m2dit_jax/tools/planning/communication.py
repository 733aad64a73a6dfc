"""The least that the devices of a mesh must tell each other, in closed form."""

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from m2dit_jax.models.layout import Layout
from m2dit_jax.parallel.mesh import PARAMETERS, TOKENS


@dataclass(frozen=True)
class Parts:
    """Shards that a mesh makes of parameters, tokens of a story, and stories without weights."""

    parameters: int
    tokens: int
    replicas: int

    @classmethod
    def of(cls, mesh: Mesh) -> "Parts":
        """The shards of a mesh."""
        parameters = 1
        for axis in PARAMETERS:
            parameters *= mesh.shape[axis]
        return cls(parameters, mesh.shape[TOKENS], mesh.size // parameters)


def least_training_bytes(
    config: Any,
    layout: Layout,
    parts: Parts,
    parameter_bytes: int,
    local_stories: int,
    item_bytes: int,
    evaluations: int = 0,
) -> dict[str, int]:
    """The least bytes that a device receives in a training step, by kind of collective.

    `parameter_bytes` are those of all sharded parameters in the dtype of the computation, whose
    items have `item_bytes`. Weights are gathered for the forward and again for the backward pass,
    gradients are summed and sharded. For attention queries, keys, values and the outcome change
    from tokens to heads and back, forward, backward, and once more where remat computes them again.
    Heads of zeros, and queries that are sent to several devices, are not counted
    (`parallel.heads`). `evaluations` are forward passes besides.
    """
    gathered_weights = parameter_bytes * (parts.parameters - 1) // parts.parameters
    replicas = parts.replicas
    tensor = _tensor_bytes(config, layout, parts, local_stories, item_bytes)
    again = config.remat in ("full", "attention", "matrices")
    kept = config.remat == "attention"
    # Forward 4; backward 4; again q, k and v, and the outcome unless it is kept.
    swapped = (8 + (4 - kept if again else 0) + 4 * evaluations) * tensor
    return {
        "all-gather": (2 + evaluations) * gathered_weights,
        "reduce-scatter": gathered_weights,
        "all-reduce": 2 * (parameter_bytes // parts.parameters) * (replicas - 1) // replicas,
        "all-to-all": swapped,
    }


def least_sampling_bytes(
    config: Any,
    layout: Layout,
    parts: Parts,
    parameter_bytes: int,
    local_stories: int,
    item_bytes: int,
) -> dict[str, int]:
    """The same of a denoising step; `local_stories` count guidance's unconditional ones too."""
    gathered_weights = parameter_bytes * (parts.parameters - 1) // parts.parameters
    tensor = _tensor_bytes(config, layout, parts, local_stories, item_bytes)
    return {"all-gather": gathered_weights, "all-to-all": 4 * tensor}


def _tensor_bytes(
    config: Any, layout: Layout, parts: Parts, local_stories: int, item_bytes: int
) -> int:
    """Bytes received for one tensor of attention, in all layers, from tokens to heads or back."""
    local = local_stories * layout.real_tokens * config.width * item_bytes // parts.tokens
    return config.layers * local * (parts.tokens - 1) // parts.tokens
