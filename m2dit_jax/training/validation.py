"""Validation: the loss of held-out stories at fixed timesteps and noise, band by band.

What is drawn depends on the number of a story alone, so that validations of different steps, runs
and meshes compare.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.models.placement import Placement
from m2dit_jax.parallel.batches import on_mesh, rows_to_read
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import batch_sharding, replicated
from m2dit_jax.training.data import HeldOutStory
from m2dit_jax.training.step import clean_latents, model_for_computing

Params = Any
BANDS = 4  # equal parts of the timesteps that are trained, from little noise to much
TASKS = ("generation", "extension")
_GOLDEN = 0.6180339887498949  # multiples of it, less their whole parts, fill 0..1 evenly


def story_losses(
    recipe: Recipe,
    latent_scale: float,
    placement: Placement,
    params: Params,
    batch: Batch | EncodedBatch,
    numbers: Int[Array, " B"],
    band: Int[Array, ""],
    given: Bool[Array, " S"],
) -> Float[Array, " B"]:
    """Mean squared error of v of each story's generated scenes, at a timestep within the band.

    `numbers` are those of the stories, by which timestep and noise are chosen.
    """
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(numbers)

    def draw(stream: int, shape: tuple[int, ...]) -> Float[Array, "B S F H W C"]:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, stream), shape[1:]))(
            keys
        )

    schedule, compute_dtype = recipe.schedule, recipe.config.train.compute_dtype
    latents, prompts = clean_latents(batch, partial(draw, 0), latent_scale)
    trained = recipe.config.trained_timesteps
    place = (band + (numbers + 1) * _GOLDEN % 1) * (len(trained) / BANDS)
    timesteps = trained.start + jnp.floor(place).astype(jnp.int32)
    given = jnp.broadcast_to(given, latents.shape[:2])
    timesteps = jnp.where(given, 0, timesteps[:, None])
    noise = draw(1, latents.shape)
    noisy = schedule.add_noise(latents, noise, timesteps)
    noisy = jnp.where(given.reshape(*given.shape, 1, 1, 1, 1), latents, noisy)
    model = model_for_computing(recipe.graphdef, params, compute_dtype, placement)
    output = model(noisy, model.encode_text(prompts), timesteps, given, placement)
    error = (output - schedule.target(latents, noise, timesteps)) ** 2
    by_scene = jnp.mean(error, axis=tuple(range(2, error.ndim)))
    by_scene *= schedule.v_error_weights(timesteps)
    return jnp.sum(by_scene * ~given, axis=1) / jnp.sum(~given, axis=1)


class Validation:
    """The validation of a run, its program compiled; all processes take part."""

    def __init__(
        self,
        recipe: Recipe,
        mesh: Mesh,
        stories: Sequence[HeldOutStory],
        latent_scale: float,
        params: Params,
    ):
        """`params` have the shapes, dtypes and shardings of the weights.

        Raises ValueError if there are no stories.
        """
        if not stories:
            raise ValueError(
                "config.train.validate_every: no held-out story has the "
                f"{recipe.config.data.scenes} scenes of config.data.scenes"
            )
        train = recipe.config.train
        self._count = len(stories)
        self._timesteps = recipe.config.trained_timesteps
        self._size = train.batch_size // train.accumulate  # divides over the mesh, and fits
        self._batches = [
            _batch(stories, first, self._size, mesh) for first in range(0, self._count, self._size)
        ]
        scenes = recipe.config.data.scenes
        self._given = {"generation": np.zeros(scenes, bool)}
        if scenes > 1:
            self._given["extension"] = np.arange(scenes) < scenes - 1
        everywhere, sharded = replicated(mesh), batch_sharding(mesh)
        placement = placement_on(mesh)
        losses = jax.jit(
            partial(story_losses, recipe, latent_scale, placement),
            out_shardings=everywhere,
        )
        band = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
        given = jax.ShapeDtypeStruct((scenes,), jnp.bool_, sharding=everywhere)
        batch, numbers = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded), self._batches[0]()
        )
        self._losses: Callable = losses.lower(params, batch, numbers, band, given).compile()
        self._place = partial(jax.device_put, device=everywhere)

    def __call__(self, params: Params) -> dict[str, float]:
        """The mean loss of each task, and of each band of timesteps, from 0 on."""
        found: dict[str, list[list[float]]] = {task: [[] for _ in range(BANDS)] for task in TASKS}
        for make_batch in self._batches:
            batch, numbers = make_batch()
            for task, given in self._given.items():
                for band in range(BANDS):
                    arguments = map(self._place, (np.int32(band), given))
                    losses = self._losses(params, batch, numbers, *arguments)
                    found[task][band] += np.asarray(losses, np.float64).tolist()
        values = {}
        for task in self._given:
            # The last batch is filled up with stories that were there already.
            means = [float(np.mean(losses[: self._count])) for losses in found[task]]
            values[f"validation/{task}/loss"] = float(np.mean(means))
            for band, mean in enumerate(means):
                values[f"validation/{task}/{_band_name(band, self._timesteps)}"] = mean
        return values


def _band_name(band: int, timesteps: range) -> str:
    count = len(timesteps)
    those = timesteps[band * count // BANDS : (band + 1) * count // BANDS]
    return f"timesteps_{those.start:03}_{those.stop - 1:03}"


def _batch(
    stories: Sequence[HeldOutStory], first: int, size: int, mesh: Mesh
) -> Callable[[], tuple[Any, jax.Array]]:
    """A function that puts a batch of stories on the mesh, with their numbers."""
    rows = rows_to_read(mesh, size)
    numbers = np.array([(first + row) % len(stories) for row in rows], np.int32)
    local = jax.tree.map(
        lambda *parts: np.stack(parts), *(stories[number].sample for number in numbers)
    )
    return lambda: on_mesh((local, numbers), rows, size, mesh)
