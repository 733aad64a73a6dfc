"""The programs that can be planned: a training step, a denoising step, a VAE's decoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding
from jax.stages import Lowered

from m2dit_jax.config.recipe import Recipe, make_transformer_config
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.sampling import Conditions, StepState
from m2dit_jax.models.attention.dispatch import resolve
from m2dit_jax.models.cogvideox.family import COGVIDEOX
from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.cogvideox.vae import CausalVae, VaeConfig, decoder_chunks
from m2dit_jax.models.flops import TRAINING_FACTOR, forward_flops, repeated_flops
from m2dit_jax.models.layout import Layout
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import TOKENS, batch_sharding, make_mesh, replicated, story_shards
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.pipeline.denoise import DenoisingProgram, sampling_step
from m2dit_jax.tools.planning.communication import Parts, least_sampling_bytes, least_training_bytes
from m2dit_jax.tools.planning.compiled_flops import compiled_flops
from m2dit_jax.tools.planning.hlo import parse
from m2dit_jax.tools.planning.memory import local_bytes
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


def make_program(recipe: Recipe, machine: Machine, mode: str) -> Program:
    """The program of a mode. Raises ValueError if the config does not fit the machine."""
    return {"train": _train, "sample": _sample, "decode": _decode}[mode](recipe, machine)


def _train(recipe: Recipe, machine: Machine) -> Program:
    config = recipe.config
    mesh = make_mesh(asdict(config.mesh), machine.devices)
    batch, empty_prompt = _batch(recipe)
    program = make_train_program(recipe, mesh, empty_prompt)
    transformer, layout = make_transformer_config(config), padded_layout(recipe, mesh)
    stories, state = config.train.batch_size, program.state
    attention = _attention(transformer, layout, mesh, machine, config.train.compute_dtype, stories)
    forward = forward_flops(transformer, layout)
    item = jnp.dtype(config.train.compute_dtype).itemsize
    return Program(
        lowered=(program.lower(batch),),
        runs=(1,),
        parts={
            "parameters": local_bytes(state.params),
            "optimizer": local_bytes(state.opt_state),
            "ema": local_bytes(state.ema),
        },
        model_flops=TRAINING_FACTOR * stories * forward.total,
        required_flops=stories
        * (TRAINING_FACTOR * forward.total + repeated_flops(forward, transformer.remat, attention)),
        least_bytes=least_training_bytes(
            transformer,
            layout,
            Parts.of(mesh),
            item * _sharded_items(state.params),
            stories // story_shards(mesh),
            item,
        ),
        devices=mesh.size,
        mesh=dict(mesh.shape),
        stories=stories,
        attention=attention,
        layout=layout,
        mask=transformer.mask,
        activation=layout.real_tokens * transformer.width,
    )


def _sample(recipe: Recipe, machine: Machine) -> Program:
    """One denoising step of a story with guidance, its tokens sharded, in bfloat16."""
    config = recipe.config
    mesh = make_mesh({"data": 1, "fsdp": 1, "context": -1}, machine.devices)
    placement = placement_on(mesh)
    transformer, layout = make_transformer_config(config), padded_layout(recipe, mesh)
    dtype = jnp.bfloat16
    params = with_shardings(
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, dtype),
            jax.eval_shape(recipe.init_params, jax.random.key(0)),
        ),
        mesh,
    )

    def shaped(*shape: int, kind: Any = dtype, place: Any = None) -> Any:
        return jax.ShapeDtypeStruct(shape, kind, sharding=place or batch_sharding(mesh))

    latents = shaped(1, layout.scenes, *recipe.latent_shape(), kind=jnp.float32)
    embeds = shaped(1, layout.scenes, layout.text, transformer.text_dim)
    given = shaped(1, layout.scenes, kind=jnp.bool_)
    row = SamplingSteps(
        *(
            shaped(*shape, kind=kind, place=replicated(mesh))
            for shape, kind in (((), jnp.int32), ((4,), jnp.float32), ((2,), jnp.float32))
        ),
        guidance=shaped(kind=jnp.float32, place=replicated(mesh)),
    )

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: recipe.new_model(nnx.Rngs(0))).transformer)
    program = DenoisingProgram(graphdef, placement)
    params = params["transformer"]
    story, state = Conditions(latents, given, embeds, embeds), StepState(latents, (latents,))
    forward = forward_flops(transformer, layout)
    flops = 2 * forward.total
    return Program(
        lowered=(sampling_step.lower(program, params, None, story, row, state, latents),),
        runs=(1,),
        parts={"parameters": local_bytes(params)},
        model_flops=flops,
        required_flops=flops,
        least_bytes=least_sampling_bytes(
            transformer, layout, Parts.of(mesh), 2 * _sharded_items(params), 2, 2
        ),
        devices=mesh.size,
        mesh=dict(mesh.shape),
        stories=1,
        attention=_attention(transformer, layout, mesh, machine, "bfloat16", 2),
        layout=layout,
        mask=transformer.mask,
        activation=layout.real_tokens * transformer.width,
    )


def _decode(recipe: Recipe, machine: Machine) -> Program:
    """A scene by CogVideoX's VAE on one device, whole and chunk by chunk, in bfloat16."""
    if recipe.config.data.source != "latents":
        raise ValueError("--mode=decode needs config.data.source 'latents': pixels have no VAE")
    place = SingleDeviceSharding(machine.devices[0])

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    vae = released_vae()
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: CausalVae(vae, rngs=nnx.Rngs(0))))
    params = placed(
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), nnx.to_pure_dict(abstract)
        )
    )

    @partial(jax.jit, donate_argnums=2)
    def decode(params, latents, cache):
        return nnx.merge(graphdef, params).decode_chunk(latents, cache)

    frames, *rest = recipe.latent_shape()
    sizes = decoder_chunks(frames, "reference")
    lowered, runs, cache, flops = [], [], None, 0
    for size in sorted(set(sizes), key=sizes.index):
        latents = placed(jax.ShapeDtypeStruct((1, size, *rest), jnp.bfloat16))
        lowered.append(decode.lower(params, latents, cache))
        runs.append(sizes.count(size))
        _, cache = placed(jax.eval_shape(decode, params, latents, cache))
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


def released_vae() -> VaeConfig:
    """The VAE of all released CogVideoX models."""
    return COGVIDEOX.vae.config({})


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
    return Batch(video, shaped(jnp.int32, data.text_length)), recipe.tokenize([""])[0]


def _attention(
    config: TransformerConfig,
    layout: Layout,
    mesh: Mesh,
    machine: Machine,
    dtype: str,
    stories: int,
) -> str:
    """The implementation that `auto` stands for on this machine."""
    if config.heads % mesh.shape[TOKENS]:
        return "chunked"  # each device asks for its own rows: `model.attention_chunks.attend_rows`
    heads = config.heads // mesh.shape[TOKENS]
    local = (max(stories // story_shards(mesh), 1), layout.tokens, heads, config.head_dim)
    return resolve(config.attention, local, jnp.dtype(dtype), machine.platform)


def _sharded_items(params: Any) -> int:
    """Numbers in all parameters that are sharded."""
    leaves: Sequence[Any] = jax.tree.leaves(params)
    return sum(x.size for x in leaves if not x.sharding.is_fully_replicated)
