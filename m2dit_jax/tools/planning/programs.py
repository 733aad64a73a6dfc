"""The programs that can be planned: a training step, a denoising step, a VAE's decoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from jax.stages import Lowered

from m2dit_jax.config.recipe import Recipe, build_recipe, make_transformer_config
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.models.attention.dispatch import resolve
from m2dit_jax.models.family import with_chunks
from m2dit_jax.models.flops import TRAINING_FACTOR, forward_flops, repeated_flops
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.quantized import cast_floats
from m2dit_jax.models.vae_chunks import decode_chunk
from m2dit_jax.parallel.context import placement_on, target_of
from m2dit_jax.parallel.heads import HeadShares
from m2dit_jax.parallel.mesh import (
    TOKENS,
    batch_sharding,
    make_mesh,
    replicated,
    story_mesh,
    story_shards,
)
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.pipeline.denoise import first_step, sampling_step, step_row
from m2dit_jax.pipeline.load import default_dtype, run_options, sampled_config
from m2dit_jax.pipeline.memory_plan import goes_in_chunks
from m2dit_jax.pipeline.streaming import BLOCKS, begin_blocks, end_blocks, run_block
from m2dit_jax.tools.planning.communication import Parts, least_sampling_bytes, least_training_bytes
from m2dit_jax.tools.planning.compiled_flops import compiled_flops
from m2dit_jax.tools.planning.hlo import parse
from m2dit_jax.tools.planning.memory import local_bytes
from m2dit_jax.tools.planning.released import released_vae
from m2dit_jax.tools.planning.topologies import Machine
from m2dit_jax.training.program import make_train_program

MODES = ("train", "sample", "decode")


@dataclass(frozen=True)
class Program:
    """A program to compile, and what is known of it beforehand.

    A step runs each of `lowered` as often as `runs` says, one after another. `parts` are the bytes
    that a device holds of parameters and so on. Operations are of the whole step on all devices:
    the model's, and those that were asked for besides (remat, and what attention kernels repeat).
    """

    lowered: tuple[Lowered, ...]
    runs: tuple[int, ...]
    parts: dict[str, int]
    model_flops: int
    required_flops: int
    least_bytes: dict[str, int]
    devices: int
    mesh: dict[str, int]
    stories: int
    attention: str
    layout: Layout | None
    mask: str
    activation: int
    """Numbers in the activations of a story between two blocks."""
    shares: HeadShares | None = None
    """How attention's heads are divided over the devices."""
    beside: int = 0
    """Bytes on a device that none of the programs is called with."""
    streamed: int = 0
    """Bytes that come from the host's memory in a step."""

    @property
    def query_parts(self) -> int:
        """Parts of attention's queries, each on another device."""
        return 1 if self.shares is None else self.shares.parts


@dataclass(frozen=True)
class Way:
    """A way to sample: the policy of memory, one of `memory_plan.Policy`, whether the branches of
    guidance go one after another, and the form of weights in 8 bits, one of `quantized.FORMS`."""

    policy: str = "offload"
    in_turn: bool = False
    quantize: str | None = None


def make_program(
    recipe: Recipe, machine: Machine, mode: str, dtype: str | None = None, way: Way | None = None
) -> Program:
    """The program of a mode, the same that training or sampling would compile there.

    Sampling and decoding are in `dtype`, by default the one that `load` takes on such a machine;
    training in `config.train.compute_dtype`. Raises ValueError if the config does not fit the
    machine.
    """
    if mode == "train":
        return _train(recipe, machine)
    if mode == "decode":
        return _decode(recipe, machine, sampling_dtype(machine, dtype))
    return _sample(recipe, machine, sampling_dtype(machine, dtype), way or Way())


def sampling_dtype(machine: Machine, dtype: str | None) -> np.dtype:
    """The dtype that was asked for, else the one that `load` takes on such a machine."""
    return jnp.dtype(dtype or default_dtype(machine.platform))


def _train(recipe: Recipe, machine: Machine) -> Program:
    config = recipe.config
    mesh = make_mesh(asdict(config.mesh), machine.devices)
    batch, empty_prompt = _batch(recipe)
    program = make_train_program(recipe, mesh, empty_prompt)
    transformer, layout = make_transformer_config(config), padded_layout(recipe, mesh)
    stories, state = config.train.batch_size, program.state
    dtype = jnp.dtype(config.train.compute_dtype)
    attention = _attention(transformer, layout, mesh, dtype, stories)
    forward = forward_flops(transformer, layout)
    evaluations = config.distill.evaluations
    flops = (TRAINING_FACTOR + evaluations) * forward.total
    frozen, trained = {}, state.params
    if program.frozen is not None:
        kind = "teacher" if config.distill.teacher else "base"
        frozen = {kind: local_bytes(program.frozen)}
        trained = program.frozen if kind == "base" else trained
    return Program(
        lowered=(program.lower(batch),),
        runs=(1,),
        parts={
            "parameters": local_bytes(state.params),
            "optimizer": local_bytes(state.opt_state),
            "ema": local_bytes(state.ema),
            **frozen,
        },
        model_flops=stories * flops,
        required_flops=stories * (flops + repeated_flops(forward, transformer.remat, attention)),
        least_bytes=least_training_bytes(
            transformer,
            layout,
            Parts.of(mesh),
            _sharded_bytes(trained, dtype.itemsize),
            stories // story_shards(mesh),
            dtype.itemsize,
            evaluations,
        ),
        devices=mesh.size,
        mesh=dict(mesh.shape),
        stories=stories,
        attention=attention,
        layout=layout,
        mask=transformer.mask,
        activation=layout.real_tokens * transformer.width,
        shares=HeadShares.of(transformer.heads, mesh.shape[TOKENS]),
    )


def _sample(recipe: Recipe, machine: Machine, dtype: np.dtype, way: Way) -> Program:
    """One denoising step of a story with the options of `config.sample`."""
    recipe = build_recipe(sampled_config(recipe.config))
    transformer = make_transformer_config(recipe.config)
    # Runs on pixels are sampled on one device.
    devices = machine.devices if recipe.config.data.source == "latents" else machine.devices[:1]
    mesh = story_mesh(transformer.heads, devices=devices)
    layout, scenes = padded_layout(recipe, mesh), recipe.config.data.scenes
    in_chunks = goes_in_chunks(way.in_turn, way.quantize, mesh.size)
    made = with_chunks(transformer) if in_chunks else transformer
    graphdef, abstract = recipe.family.transformer.shapes(made, way.quantize)
    params = with_shardings(cast_floats(abstract, dtype), mesh)
    latents = jnp.zeros((1, scenes, *recipe.latent_shape()))
    # A text encoder's result is float32, whatever its weights are.
    embeds = jnp.zeros((1, layout.scenes, layout.text, transformer.text_dim))
    options = run_options(recipe)
    negative = embeds if options.needs_negative else None
    story = Conditions(latents, jnp.zeros(latents.shape[:2], bool), embeds, negative)
    steps, network = options.table(recipe.schedule, scenes), LoadedNetwork(graphdef, params)
    branches = 1 if negative is None else 2
    if way.policy == "stream":
        compiled = _streamed(network, story, mesh, branches, way.in_turn)
    else:
        compiled = _whole_step(network, story, steps, mesh, way.in_turn)
    flops = branches * forward_flops(transformer, layout).total
    least = least_sampling_bytes(
        transformer,
        layout,
        Parts.of(mesh),
        _sharded_bytes(params, dtype.itemsize),
        branches,
        dtype.itemsize,
    )
    return Program(
        **compiled,
        model_flops=flops,
        required_flops=flops,
        least_bytes=least,
        devices=mesh.size,
        mesh=dict(mesh.shape),
        stories=1,
        attention=_attention(transformer, layout, mesh, dtype, branches),
        layout=layout,
        mask=transformer.mask,
        activation=layout.real_tokens * transformer.width,
        shares=HeadShares.of(transformer.heads, mesh.shape[TOKENS]),
    )


def _whole_step(
    network: LoadedNetwork, story: Conditions, steps: SamplingSteps, mesh: Mesh, in_turn: bool
) -> dict[str, Any]:
    """The step of `sampling_step`, with the whole transformer on the devices."""
    placement, params = placement_on(mesh), network.params
    first = first_step(network, steps, story, story.clean, placement, in_turn=in_turn)
    arguments = _shapes((first.part, step_row(first.steps, 0)))
    # The state of a step lies where the step before has left it.
    place = batch_sharding(mesh) if placement.is_sharded else replicated(mesh)
    state, noise = _shapes(first.state, place), _shapes(story.clean)
    lowered = sampling_step.lower(first.program, params, None, *arguments, state, noise)
    return {"lowered": (lowered,), "runs": (1,), "parts": {"parameters": local_bytes(params)}}


def _streamed(
    network: LoadedNetwork, story: Conditions, mesh: Mesh, branches: int, in_turn: bool
) -> dict[str, Any]:
    """The programs that `pipeline.streaming` runs in a step: before, for each, and after blocks."""
    place = replicated(mesh)
    rows = 1 if in_turn else branches

    def batch(x: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=place)

    times = jnp.zeros(story.given.shape, jnp.int32)
    inputs = [batch(x) for x in (story.clean, story.text_embeds, times, story.given)]
    outside = {name: part for name, part in network.params.items() if name != BLOCKS}
    stacked = network.params[BLOCKS]
    block = _shapes(jax.tree.map(lambda x: jax.eval_shape(lambda y: y[0], x), stacked), place)
    layers = jax.tree.leaves(stacked)[0].shape[0]
    params, mask = outside | {BLOCKS: block}, nnx.merge(*network).block_masks[0]
    how = (network.graphdef, placement_on(mesh))
    tokens, beside = jax.eval_shape(partial(begin_blocks, *how, None), params, *inputs)
    tokens, beside = _shapes(tokens, place), _shapes(beside, place)
    lowered = (
        begin_blocks.lower(*how, None, params, *inputs),
        run_block.lower(*how, mask, params, tokens, beside),
        end_blocks.lower(*how, params, tokens, beside),
    )
    times_each = branches if in_turn else 1
    waiting = (times_each - 1) * local_bytes((tokens, beside))  # the other branches
    return {
        "lowered": lowered,
        "runs": (times_each, times_each * layers, times_each),
        # Of the blocks there are the one at work and the next; the first is the programs' own.
        "parts": {"parameters": local_bytes(outside) + 2 * local_bytes(block)},
        "beside": local_bytes(outside) + local_bytes(block) + waiting,
        "streamed": layers * local_bytes(block),
    }


def _decode(recipe: Recipe, machine: Machine, dtype: np.dtype) -> Program:
    """A scene by the family's released VAE on one device, whole and chunk by chunk."""
    if recipe.config.data.source != "latents":
        raise ValueError("--mode=decode needs config.data.source 'latents': pixels have no VAE")
    family, channels = recipe.family, recipe.config.data.channels
    config = released_vae(family, channels)
    if config is None:
        raise ValueError(
            f"--mode=decode: no released VAE of {family.name} has {channels} channels, as "
            "config.data.channels says"
        )
    place = SingleDeviceSharding(machine.devices[0])

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    vae: Any = nnx.eval_shape(lambda: family.vae.make(config, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(vae)
    params = placed(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), abstract))

    frames, *rest = recipe.latent_shape()
    sizes = vae.chunks(frames)
    # The first chunk has no cache, and so is another program than a later one of its size.
    kinds = [(size, number == 0) for number, size in enumerate(sizes)]
    lowered, runs, cache, flops = [], [], None, 0
    for size, is_first in dict.fromkeys(kinds):
        latents = placed(jax.ShapeDtypeStruct((1, size, *rest), jnp.float32))
        lowered.append(decode_chunk.lower(graphdef, params, latents, cache))
        runs.append(kinds.count((size, is_first)))
        _, cache = placed(jax.eval_shape(partial(decode_chunk, graphdef), params, latents, cache))
        as_written = parse(lowered[-1].as_text(dialect="hlo"))
        flops += runs[-1] * compiled_flops(as_written, None, "").total
    return Program(
        lowered=tuple(lowered),
        runs=tuple(runs),
        parts={"parameters": local_bytes(params)},
        model_flops=flops,
        required_flops=flops,
        least_bytes={},
        devices=1,
        mesh={},
        stories=1,
        attention="none",
        layout=None,
        mask="",
        activation=0,
    )


def padded_layout(recipe: Recipe, mesh: Mesh) -> Layout:
    """The joint sequence of a story of the recipe's data, padded as on the mesh."""
    layout = recipe.story_layout()
    return replace(layout, padding=placement_on(mesh).padding(layout.tokens))


def _batch(recipe: Recipe) -> tuple[Any, Any]:
    """Shapes of a batch of the recipe's data, which need not be there, and the empty prompt."""
    data, stories = recipe.config.data, recipe.config.train.batch_size

    def shaped(kind: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((stories, data.scenes, *shape), kind)

    if data.source == "latents":
        moments = shaped(jnp.bfloat16, *recipe.latent_shape())
        embeds = shaped(jnp.bfloat16, data.text_length, data.text_dim)
        empty = np.zeros(embeds.shape[2:], jnp.bfloat16)
        return EncodedBatch(moments, moments, embeds), empty
    video = shaped(jnp.uint8, *recipe.scene_size(), 3)
    texts = recipe.story_layout().scenes  # a global one among them
    token_ids: Any = jax.ShapeDtypeStruct((stories, texts, data.text_length), jnp.int32)
    return Batch(video, token_ids), recipe.tokenize([""])[0]


def _shapes(tree: Any, place: Sharding | None = None) -> Any:
    """Shapes and dtypes of arrays; without a place they lie where the program wants them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def _attention(config: Any, layout: Layout, mesh: Mesh, dtype: np.dtype, stories: int) -> str:
    """The implementation that `auto` stands for on this mesh."""
    shares = HeadShares.of(config.heads, mesh.shape[TOKENS])
    batch = max(stories // story_shards(mesh), 1)
    local = (batch, layout.tokens, shares.local, config.head_dim)
    return resolve(config.attention, local, dtype, target_of(mesh))


def _sharded_bytes(params: Any, itemsize: int) -> int:
    """Bytes of all parameters that are sharded: as computed with, but for quantised ones."""
    leaves: Sequence[Any] = jax.tree.leaves(params)
    return sum(
        x.size * (1 if x.dtype.itemsize == 1 else itemsize)
        for x in leaves
        if not x.sharding.is_fully_replicated
    )
