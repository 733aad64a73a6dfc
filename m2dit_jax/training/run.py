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
from m2dit_jax.data.loader import unequal_lengths
from m2dit_jax.models.lora import join_adapters
from m2dit_jax.parallel.context import target_of
from m2dit_jax.parallel.mesh import make_mesh, replicated
from m2dit_jax.parallel.processes import print_once
from m2dit_jax.parallel.rules import sharding_table
from m2dit_jax.training.data import TrainingData, open_training_data
from m2dit_jax.training.data_identity import check_same_data
from m2dit_jax.training.first_state import check_init_from, make_first_state, state_shapes
from m2dit_jax.training.frame_rates import rate_notes
from m2dit_jax.training.frozen import (
    FrozenWeights,
    check_same_frozen,
    find_base,
    frozen_shapes,
)
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.program import TrainProgram, make_train_program
from m2dit_jax.training.record import read_record
from m2dit_jax.training.state import TrainState
from m2dit_jax.training.story_previews import Previews, choose_stories, open_preview_model
from m2dit_jax.training.teacher import find_teacher
from m2dit_jax.training.validation import Validation
from m2dit_jax.training.wandb_writer import import_wandb
from m2dit_jax.training.workdir import check_resume
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.latent_scale import find_scaling_factor


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
    validation: Validation | None = None
    previews: Previews | None = None
    profile_steps: int = 0
    """Steps to trace, soon after the start."""
    apart: bool = False
    """Whether processes have workdirs of their own, of which the first one's counts."""
    override: bool = False
    """Whether a run that is there goes on with another learning rate or number of steps."""
    frozen: FrozenWeights | None = None
    """The model that is distilled, or that adapters are for."""
    frozen_params: Any = None
    """Its weights."""

    @property
    def config(self) -> Config:
        """The config of the recipe."""
        return self.recipe.config

    def sampled_params(self, state: TrainState) -> Any:
        """The weights of the whole model to sample with, adapters beside it."""
        return _with_base(self.recipe, state.averaged, self.frozen_params)


def prepare(
    config: Config,
    workdir: Path,
    profile_steps: int = 0,
    override: bool = False,
    apart: bool = False,
) -> Run | None:
    """The run to go on with, None if it is finished.

    Raises ValueError for data, a mesh or weights that do not fit the config, and for a workdir
    whose run has another one (see `check_resume`).
    """
    recipe = build_recipe(config)
    mesh = make_mesh(asdict(config.mesh))
    if config.train.wandb != "off":
        import_wandb()
    check_resume(config, workdir, override)
    done = run_folder.latest_good_step(workdir)
    if done == config.train.steps:
        print_once(f"{workdir}: nothing to do, all {config.train.steps} steps are done")
        print_once(next_commands(workdir, config))
        return None
    frozen = _find_frozen(recipe)
    if frozen is not None:
        check_same_frozen(frozen, read_record(workdir), workdir)
        print_once(f"{_IS_TO_THE_RUN[frozen.kind]} {frozen.said}")
    if config.first_weights and done is None and not config.train.lora.rank:
        print_once(check_init_from(recipe))
    data = open_training_data(recipe)
    check_same_data(data.datasets, read_record(workdir), workdir, config.data.source)
    for note in rate_notes(data.datasets, config.sample.fps):
        print_once(note)
    if config.data.source == "latents":
        _check_scaling_of_run(workdir, data.latent_scale)
    if config.model.attention == "auto" and (line := target_of(mesh).without_cudnn):
        print_once(line)

    program = make_train_program(recipe, mesh, data.empty_prompt, data.latent_scale)
    init_key, seed_key = _keys(config.seed, mesh)
    first_state = make_first_state(recipe, program.optimizer, init_key, program.state)
    # Ahead of the first step, as tracing also finds what is wrong with a config: unknown names.
    compiled = {
        (_shapes(batch), frames): program.lower(batch, frames).compile()
        for batch, frames in data.batch_shapes
    }

    frozen_params = None if frozen is None else frozen.load(program.frozen)
    more = () if frozen is None else (frozen_params,)

    def train_step(state: TrainState, key: Key[Array, ""], batch: Any) -> TrainState:
        return compiled[_shapes(batch), unequal_lengths(batch)](state, key, batch, *more)

    return Run(
        recipe,
        workdir,
        program,
        data,
        seed_key,
        first_state,
        train_step,
        _validation(recipe, program, data),
        _previews(recipe, program, data),
        profile_steps,
        apart,
        override,
        frozen,
        frozen_params,
    )


_IS_TO_THE_RUN = {"teacher": "learns from", "base": "trains adapters of"}


def _find_frozen(recipe: Recipe) -> FrozenWeights | None:
    if recipe.config.distill.teacher:
        return find_teacher(recipe)
    return find_base(recipe) if recipe.config.train.lora.rank else None


def _with_base(recipe: Recipe, trained: Any, frozen: Any) -> Any:
    return join_adapters(frozen, trained) if recipe.config.train.lora.rank else trained


def _validation(recipe: Recipe, program: TrainProgram, data: TrainingData) -> Validation | None:
    train = recipe.config.train
    if not train.validate_every:
        return None
    stories = data.held_out(train.validation_stories)
    weights = _with_base(recipe, program.state.averaged, program.frozen)
    return Validation(recipe, program.mesh, stories, data.latent_scale, weights)


def _previews(recipe: Recipe, program: TrainProgram, data: TrainingData) -> Previews | None:
    if not recipe.config.train.preview_every:
        return None
    model = open_preview_model(recipe)
    stories = choose_stories(recipe, data, model)
    weights = _with_base(recipe, program.state.averaged, program.frozen)
    return Previews(recipe, program.mesh, stories, data.empty_prompt, model, weights)


def show_sharding(config: Config) -> str:
    """A table of what each device of `config.mesh` holds of the state, and of weights that stay.

    Raises ValueError as `prepare` does.
    """
    recipe, mesh = build_recipe(config), make_mesh(asdict(config.mesh))
    optimizer = make_optimizer(config.train, config.trains_text_encoder)
    tables = [sharding_table(state_shapes(recipe, optimizer), mesh)]
    frozen = frozen_shapes(recipe, mesh)
    if frozen is not None:
        kind = "teacher" if config.distill.teacher else "base"
        tables += [f"and of the {kind}:", sharding_table(frozen, mesh)]
    return "\n".join(tables)


# Storyboards for models of the worlds.
EXAMPLES = {"shapes": "lone_actor", "storyworld": "two_friends"}


def next_commands(workdir: Path, config: Config) -> str:
    """The commands that sample and evaluate a finished run, for the terminal."""
    source = config.data.source
    scenes, model = '--prompt="a caption" --prompt="the next one"', ""
    if source in EXAMPLES:
        scenes = f"--storyboard={EXAMPLES[source]}"
    if source == "latents" and not config.first_weights:
        model = " --model=FOLDER"
    commands = [
        f"  python -m m2dit_jax.sample --checkpoint={workdir}{model} {scenes} "
        f"--output={workdir}/sample"
    ]
    if source != "latents":
        commands.append(
            f"  python -m m2dit_jax.evaluate --checkpoint={workdir} --json={workdir}/report.json"
        )
    return "\n".join(["Next:", *commands])


def _check_scaling_of_run(workdir: Path, scale: float) -> None:
    """Raises ValueError if a run that goes on has learnt from latents of another scale."""
    before = find_scaling_factor(workdir)
    if before not in (None, scale):
        raise ValueError(
            f"config.data.paths: encoded with the scaling factor {scale}, the run in {workdir} "
            f"learnt from latents of {before}; needs the same"
        )


def _keys(seed: int, mesh: Mesh) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The keys of the first state and of the steps, on all devices."""
    return jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(seed))), out_shardings=replicated(mesh)
    )()


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(x.shape for x in jax.tree.leaves(batch))
