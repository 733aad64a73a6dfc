"""The stages of a sampling run beside the denoising step: reading prompts, decoding scenes.

Networks take turns on a device, so that a run needs as much memory as its largest stage.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled, Lowered

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.models.coding import encode_ids
from m2dit_jax.models.quantized import cast_floats
from m2dit_jax.tools.planning.memory import bytes_that_did_not_fit, local_bytes, program_bytes
from m2dit_jax.tools.planning.programs import (
    make_program,
    sampling_dtype,
)
from m2dit_jax.tools.planning.released import released_text_encoder, released_vae
from m2dit_jax.tools.planning.report import MARGIN, STRIPS, Stage
from m2dit_jax.tools.planning.topologies import Machine

DENOISING = "denoising step"


def compile_all(
    lowered: tuple[Lowered, ...], machine: Machine, held: int
) -> tuple[list[Compiled], int]:
    """The programs, compiled, and the most bytes that one takes; none if one is too large.

    `held` are the bytes of the arguments that all of them share.
    """
    try:
        compiled = [each.compile(machine.compiler_options) for each in lowered]
    except JaxRuntimeError as error:
        peak = bytes_that_did_not_fit(str(error), held)
        if peak is None:
            raise
        return [], peak
    return compiled, max(program_bytes(each) for each in compiled)


def other_stages(
    recipe: Recipe, machine: Machine, dtype: str | None = None, quantize: str | None = None
) -> tuple[Stage, ...]:
    """The stages of a run on latents, each on one device: text encoder, decoding a scene whole.

    Decoding in strips where whole takes too much, and the text encoder on the host's CPU. Those of
    the released models; none where the run's texts or latents are of other sizes.
    """
    room = (1 - MARGIN) * machine.chip.memory_bytes
    data, stages = recipe.config.data, []
    if data.source != "latents":
        return ()
    if data.text_dim == released_text_encoder(recipe.family).d_model:
        how = (sampling_dtype(machine, dtype), quantize)
        program, held = _encoding_program(recipe, machine, *how)
        peak = compile_all((program,), machine, held)[1]
        if peak > room:
            stages.append(Stage("text encoder on the CPU", 0, 0))
        else:
            stages.append(Stage("text encoder", peak, held))
    if released_vae(recipe.family, data.channels) is not None:
        decoding = make_program(recipe, machine, "decode", dtype)
        held = sum(decoding.parts.values())
        peak, name = compile_all(decoding.lowered, machine, held)[1], "decoding"
        if peak > room:  # as `sample` does by itself
            peak, name = peak // STRIPS, "decoding in strips (estimated)"
        stages.append(Stage(name, peak, held))
    return tuple(stages)


def _encoding_program(
    recipe: Recipe, machine: Machine, dtype: np.dtype, quantize: str | None
) -> tuple[Lowered, int]:
    """One prompt through the text encoder, and the bytes of its weights."""
    place = SingleDeviceSharding(machine.devices[0])
    family = recipe.family
    config = released_text_encoder(family)
    graphdef, abstract = family.text_encoder.shapes(config, quantize)
    params: Any = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        cast_floats(abstract, dtype),
    )
    shape = (1, recipe.config.data.text_length)
    token_ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    return encode_ids.lower(graphdef, params, token_ids), local_bytes(params)
