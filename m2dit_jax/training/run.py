"""A training run before its first step: checked, its data opened, its step compiled."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from m2dit_jax.config.recipe import Recipe, build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.parallel.context import target_of
from m2dit_jax.parallel.mesh import make_mesh, replicated
from m2dit_jax.parallel.processes import print_once
from m2dit_jax.parallel.rules import sharding_table
from m2dit_jax.training.data import TrainingData, open_training_data
from m2dit_jax.training.first_state import check_init_from, make_first_state, state_shapes
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.program import TrainProgram, make_train_program
from m2dit_jax.training.state import TrainState
from m2dit_jax.training.workdir import check_same_config
from m2dit_jax.weights import run_folder


@dataclass(frozen=True)
class Run:
    """A training run, checked and compiled; nothing of it is written yet."""

    recipe: Recipe
    workdir: Path
    program: TrainProgram
    data: TrainingData
    seed_key: Key[Array, ""]
    first_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Key[Array, ""], Any], TrainState]
    profile_steps: int = 0
    """Steps to trace, soon after the start."""

    @property
    def config(self) -> Config:
        """The config of the recipe."""
        return self.recipe.config


def prepare(config: Config, workdir: Path, profile_steps: int = 0) -> Run | None:
    """The run to go on with, None if it is finished.

    Raises ValueError for data, a mesh or weights that do not fit the config, and for a workdir
    whose run has another one.
    """
    recipe = build_recipe(config)
    mesh = make_mesh(asdict(config.mesh))
    check_same_config(config, workdir)
    if run_folder.latest_step(workdir) == config.train.steps:
        print_once(f"{workdir}: nothing to do, all {config.train.steps} steps are done")
        print_once(next_commands(workdir, config.data.source))
        return None
    if config.train.init_from and run_folder.latest_step(workdir) is None:
        check_init_from(recipe)
    data = open_training_data(recipe)
    if config.model.attention == "auto" and (line := target_of(mesh).without_cudnn):
        print_once(line)

    program = make_train_program(recipe, mesh, data.empty_prompt, data.latent_scale)
    init_key, seed_key = _keys(config.seed, mesh)
    first_state = make_first_state(recipe, program.optimizer, init_key, program.state)
    # Ahead of the first step, as tracing also finds what is wrong with a config: unknown names.
    compiled = {_shapes(batch): program.lower(batch).compile() for batch in data.batch_shapes}

    def train_step(state: TrainState, key: Key[Array, ""], batch: Any) -> TrainState:
        return compiled[_shapes(batch)](state, key, batch)

    return Run(recipe, workdir, program, data, seed_key, first_state, train_step, profile_steps)


def show_sharding(config: Config) -> str:
    """A table of what each device of `config.mesh` holds of the training state.

    Raises ValueError as `prepare` does.
    """
    recipe, mesh = build_recipe(config), make_mesh(asdict(config.mesh))
    optimizer = make_optimizer(config.train, config.trains_text_encoder)
    return sharding_table(state_shapes(recipe, optimizer), mesh)


def next_commands(workdir: Path, source: str) -> str:
    """The commands that sample and evaluate a finished run, for the terminal."""
    storyboard, model = "lone_actor", ""
    if source != "shapes":
        storyboard = "FILE"
    if source == "latents":
        model = " --model=FOLDER"
    commands = [
        f"  python -m m2dit_jax.sample --checkpoint={workdir}{model} --storyboard={storyboard} "
        f"--output={workdir}/sample"
    ]
    if source != "latents":
        commands.append(
            f"  python -m m2dit_jax.evaluate --checkpoint={workdir} --json={workdir}/report.json"
        )
    return "\n".join(["Next:", *commands])


def _keys(seed: int, mesh: Mesh) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The keys of the first state and of the steps, on all devices."""
    return jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(seed))), out_shardings=replicated(mesh)
    )()


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(x.shape for x in batch)
