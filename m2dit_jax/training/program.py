"""The training step as a program for a mesh: what lies where, compiled before any data are read."""

from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.stages import Lowered, Wrapped

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import batch_sharding, replicated, story_shards
from m2dit_jax.parallel.rules import shardings, with_shardings
from m2dit_jax.training.distillation import make_teach, step_config
from m2dit_jax.training.first_state import state_shapes
from m2dit_jax.training.frozen import frozen_shapes
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.training.step import make_train_step


@dataclass(frozen=True)
class TrainProgram:
    """The step of a recipe on a mesh, whose devices may be those of an absent machine."""

    mesh: Mesh
    optimizer: optax.GradientTransformation
    state: TrainState
    """Shapes and dtypes, with the sharding of each array."""
    step: Wrapped
    """(state, seed key, batch) -> next state; the state is donated. Weights that are not trained
    are one more argument."""
    frozen: Any = None
    """Shapes and dtypes of weights that are not trained, with their shardings: a teacher's, or
    those that adapters are for; None: there are none."""

    def lower(self, batch: Any, frames: tuple[int, ...] | None = None) -> Lowered:
        """The step for batches of these shapes, ready to be compiled.

        `frames` are those of each scene, where they are unequal.
        """
        everywhere, sharded = replicated(self.mesh), batch_sharding(self.mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        frozen = () if self.frozen is None else (self.frozen,)
        arguments = (_placed(key, everywhere), _placed(batch, sharded), *frozen)
        return self.step.lower(self.state, *arguments, frames=frames)


def make_train_program(
    recipe: Recipe, mesh: Mesh, empty_prompt: Any, latent_scale: float = 1.0
) -> TrainProgram:
    """The jitted training step of a recipe, with what it needs to be compiled.

    `empty_prompt` and `latent_scale` are those of `training.data.TrainingData`. Raises ValueError
    if the batch does not divide over the mesh.
    """
    _check_batch(recipe, mesh)
    config = recipe.config
    optimizer = make_optimizer(config.train, config.trains_text_encoder)
    state = with_shardings(state_shapes(recipe, optimizer), mesh)
    placement = placement_on(mesh)
    step = make_train_step(
        recipe.graphdef,
        optimizer,
        recipe.schedule,
        empty_prompt,
        step_config(recipe),
        latent_scale,
        placement,
        make_teach(recipe, empty_prompt, placement) if config.distill.teacher else None,
    )
    jitted = jax.jit(
        step, out_shardings=shardings(state, mesh), donate_argnums=0, static_argnames="frames"
    )
    return TrainProgram(mesh, optimizer, state, jitted, frozen_shapes(recipe, mesh))


def _placed(shapes: Any, place: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def _check_batch(recipe: Recipe, mesh: Mesh) -> None:
    train, shards = recipe.config.train, story_shards(mesh)
    if (train.batch_size // train.accumulate) % shards:
        raise ValueError(
            f"config.train.batch_size / config.train.accumulate must be a multiple of the {shards} "
            f"devices along config.mesh.data and config.mesh.fsdp, got "
            f"{train.batch_size // train.accumulate}"
        )
