"""A transformer whose blocks are in host memory, each on the device when it is its turn.

While a block is at work, the next one is on its way: two of them are on the device, whatever the
transformer's depth. The results are those of the transformer on the device, with a placement of
one device and without the cache of given scenes.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Float

from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.sampling import (
    Conditions,
    Denoiser,
    Latents,
    StepResult,
    StepState,
    after_evaluation,
    denoise_step,
    for_story,
    start,
)
from m2dit_jax.models.family import RunsByBlocks
from m2dit_jax.models.network import LoadedNetwork, Params
from m2dit_jax.models.placement import ONE_DEVICE, Placement

Frames = tuple[int, ...] | None
BLOCKS = "blocks"
PINNED = "pinned_host"  # memory of the host that a device reads by itself


@dataclass(frozen=True)
class StreamedNetwork:
    """A network that is run block by block: `outside` are all other parameters, on the device.

    `layers` are the blocks' parameters in host memory: pinned arrays of JAX where the backend has
    such memory apart from the device's, else NumPy's.
    """

    graphdef: nnx.GraphDef
    outside: Params
    layers: tuple[Params, ...]
    device: Any

    @classmethod
    def of(cls, network: LoadedNetwork, device: Any = None) -> "StreamedNetwork":
        """The network, with the parameters of `network`, which are of the host; it is emptied.

        Raises ValueError for one that cannot be run block by block.
        """
        device = device or jax.devices()[0]
        if not isinstance(nnx.merge(*network), RunsByBlocks) or BLOCKS not in network.params:
            raise ValueError("memory='stream': this transformer cannot be run block by block")
        stacked, tree = jax.tree.flatten(network.params.pop(BLOCKS))
        outside = jax.device_put(network.params, SingleDeviceSharding(device))
        layers: list[list[Any]] = [[] for _ in range(stacked[0].shape[0])]
        pinned = _pinned(device)
        for place in range(len(stacked)):  # leaf by leaf, so that only one is there twice
            whole, stacked[place] = np.asarray(stacked[place]), None
            for layer, values in zip(layers, whole, strict=True):
                layer.append(values if pinned is None else jax.device_put(values, pinned))
        trees = tuple(jax.tree.unflatten(tree, layer) for layer in layers)
        return cls(network.graphdef, outside, trees, device)

    @cached_property
    def block_masks(self) -> tuple[str, ...]:
        """The mask of each block."""
        return nnx.merge(self.graphdef, self.outside | {BLOCKS: self.layers[0]}).block_masks

    def denoiser(
        self,
        placement: Placement = ONE_DEVICE,
        frames: Frames = None,
        in_turn: bool = False,
    ) -> Denoiser:
        """The model as the sampler calls it, outside of compiled code.

        `in_turn` takes each block through the stories of a batch one after another.
        """
        return partial(self._evaluate, placement, frames, in_turn)

    def _evaluate(
        self, placement: Placement, frames: Frames, in_turn: bool, *inputs: Any
    ) -> Latents:
        rows = [inputs]
        if in_turn:
            rows = [[x[i : i + 1] for x in inputs] for i in range(len(inputs[0]))]
        whole = self.outside | {BLOCKS: self.layers[0]}  # of the blocks only the structure is used
        begun = [begin_blocks(self.graphdef, placement, frames, whole, *row) for row in rows]
        tokens, beside = map(list, zip(*begun, strict=True))
        del begun  # the tokens are given away
        ahead = self._put(0)
        for number, mask in enumerate(self.block_masks):
            params = self.outside | {BLOCKS: ahead}
            ahead = self._put(number + 1)
            for row, embedded in enumerate(beside):
                how = (self.graphdef, placement, mask)
                tokens[row] = run_block(*how, params, tokens[row], embedded)
            # Else all blocks would be sent at once, and none would fit.
            jax.block_until_ready(tokens)
        rows = zip(tokens, beside, strict=True)
        ends = [end_blocks(self.graphdef, placement, whole, *row) for row in rows]
        return jnp.concatenate(ends).astype(inputs[0].dtype)

    def _put(self, number: int) -> Params:
        """A block's parameters on the device, on their way; nothing after the last."""
        if number >= len(self.layers):
            return None
        return jax.device_put(self.layers[number], SingleDeviceSharding(self.device))


@partial(jax.jit, static_argnums=(0, 1, 2))
def begin_blocks(
    graphdef: nnx.GraphDef, placement: Placement, frames: Frames, params: Params, *inputs: Array
) -> tuple[Float[Array, "B L D"], Any]:
    """Tokens of the first block, and what all blocks see beside them."""
    return nnx.merge(graphdef, params).begin(*inputs, placement, frames)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def run_block(
    graphdef: nnx.GraphDef,
    placement: Placement,
    mask: str,
    params: Params,
    tokens: Float[Array, "B L D"],
    embedded: Any,
) -> Float[Array, "B L D"]:
    """The result of a block, whose parameters are `blocks` of `params`."""
    return nnx.merge(graphdef, params).run_layer(mask, tokens, embedded, placement)


@partial(jax.jit, static_argnums=(0, 1))
def end_blocks(
    graphdef: nnx.GraphDef,
    placement: Placement,
    params: Params,
    tokens: Float[Array, "B L D"],
    embedded: Any,
) -> Float[Array, "B S F H W C"]:
    """v, of the last block's result."""
    return nnx.merge(graphdef, params).end(tokens, embedded, placement)


_rest_of_step = jax.jit(after_evaluation)


def _pinned(device: Any) -> SingleDeviceSharding | None:
    """Memory of the host that the device reads by itself; None where it has none of its own."""
    if device.platform == "cpu":  # whose memory is the host's
        return None
    if PINNED not in {memory.kind for memory in device.addressable_memories()}:
        return None
    return SingleDeviceSharding(device, memory_kind=PINNED)


def denoise_streamed(
    network: StreamedNetwork,
    steps: SamplingSteps,
    story: Conditions,
    noise: Latents,
    step_noise: Callable[[int], Latents],
    placement: Placement = ONE_DEVICE,
    in_turn: bool = False,
    frames: Frames = None,
    numbers: range | None = None,
    state: StepState | None = None,
) -> Generator[StepResult, None, StepState]:
    """The results of the sampling steps, as `pipeline.denoise.denoise` has them.

    `numbers` are those of the steps, by default all, `state` that before them; returns that after.
    """
    steps = for_story(steps, story.given)
    denoiser = network.denoiser(placement, frames, in_turn)
    story, first = start(steps, story, noise)
    state = state or first
    for number in range(len(steps.timesteps)) if numbers is None else numbers:
        row = jax.tree.map(lambda rows, number=number: jnp.asarray(rows[number]), steps)
        state, result = denoise_step(denoiser, story, row, state, step_noise(number), _rest_of_step)
        yield result
    return state
