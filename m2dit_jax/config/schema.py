"""The config of a run as frozen dataclasses, with the checks of what several parts have together.

`configs/base.py` has the values, and other configs change some of them; a file's config is read
once, by `Config.from_dict`. The fields of its parts have modules of
their own, and none has a default.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ml_collections import ConfigDict

from m2dit_jax.config.bounds import (
    DRAWN,
    MAX_STORY,
    MAX_TIMESTEPS,
    VAE_FRAMES,
)
from m2dit_jax.config.data_fields import DataConfig
from m2dit_jax.config.diffusion_fields import DiffusionConfig
from m2dit_jax.config.distillation import DistillConfig
from m2dit_jax.config.fields import FREE, range_problems, read_fields, setting
from m2dit_jax.config.mesh_fields import MeshConfig
from m2dit_jax.config.model_fields import ModelConfig, TextEncoderSettings
from m2dit_jax.config.sample_fields import SampleConfig
from m2dit_jax.config.train_fields import TrainConfig
from m2dit_jax.data.shapes import read_actor
from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.models.coding import latent_frames
from m2dit_jax.models.families import family_named
from m2dit_jax.models.family import EXPERTS
from m2dit_jax.models.masks import check_global_text
from m2dit_jax.utils.options import (
    MAX_SEED,
    problem_lines,
)


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on. Raises ValueError with every value that cannot be."""

    seed: int = setting(
        "Seed of the parameters, the stories and every random draw.", at_least=0, at_most=MAX_SEED
    )
    data: DataConfig = setting("The stories that a model learns.")
    text_encoder: TextEncoderSettings = setting(
        "The model's own text encoder.", sources=(*DRAWN, "pixels")
    )
    model: ModelConfig = setting("The diffusion transformer.")
    diffusion: DiffusionConfig = setting("The noise schedule.")
    train: TrainConfig = setting("The training run.")
    sample: SampleConfig = setting("Defaults of sampling.", resume=FREE)
    distill: DistillConfig = setting("Distillation of a trained model into few sampling steps.")
    mesh: MeshConfig = setting("The device mesh.", resume=FREE)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | ConfigDict, source: object = "") -> "Config":
        """The config that a config file's ConfigDict or a checkpoint's nested dicts describe.

        Raises ValueError naming every field that is missing, unknown or mistyped, or else every
        one that cannot be; after the `source`, the file or folder that it was read from.
        """
        plain: Mapping[str, Any] = values.to_dict() if isinstance(values, ConfigDict) else values
        try:
            return read_fields(cls, plain)
        except ValueError as error:
            raise ValueError(f"{source}: {error}" if str(source) else str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values, as checkpoints hold them."""
        return asdict(self)

    def __post_init__(self) -> None:
        problems = [
            *range_problems(self, self.data.source),
            *self.model.problems(),
            *self.train.problems(),
            *self._timestep_problems(),
            *self.distill.problems(self.train, self.sample, self.diffusion.timesteps),
            *self.train.lora.problems(self.train, self.distill),
            *self._held_out_problems(),
            *self._source_problems(),
        ] or self._story_problems()
        if problems:
            raise ValueError(problem_lines(problems))

    @property
    def trains_text_encoder(self) -> bool:
        """False if the model has a text encoder and it stays as it is."""
        if self.data.source == "latents":
            return True
        return self.text_encoder.trained and not self.train.lora.rank

    @property
    def first_weights(self) -> str:
        """Path of the first weights: init_from, else the teacher; empty for fresh weights."""
        return self.train.init_from or self.distill.teacher

    @property
    def first_weights_field(self) -> str:
        """The field that says so."""
        by_teacher = self.distill.teacher and not self.train.init_from
        return "config.distill.teacher" if by_teacher else "config.train.init_from"

    @property
    def transformer_folder(self) -> str:
        """The folder, in a model's, of the transformer that is trained."""
        return EXPERTS.get(self.train.expert, "transformer")

    @property
    def trained_timesteps(self) -> range:
        """The timesteps that a transformer learns: all, or those of an expert."""
        every = range(self.diffusion.timesteps)
        first = math.ceil(self.diffusion.boundary * len(every))
        parts = {"high_noise": every[first:], "low_noise": every[:first]}
        return parts.get(self.train.expert, every)

    def _expert_problems(self) -> list[str]:
        """Says if the two transformers of a model and the one that is trained do not fit."""
        expert, boundary = self.train.expert, self.diffusion.boundary
        if bool(expert) != bool(boundary):
            return [
                "config.train.expert and config.diffusion.boundary: needs both or neither, got "
                f"{expert!r} and {boundary:g}"
            ]
        if expert and not family_named(self.model.family).has_second:
            return [
                f"config.train.expert: models of config.model.family {self.model.family!r} have "
                f"one transformer, got {expert!r}"
            ]
        if expert and self.diffusion.timesteps <= MAX_TIMESTEPS and not self.trained_timesteps:
            return [f"config.diffusion.boundary {boundary:g} leaves no timesteps to {expert!r}"]
        return []

    def _timestep_problems(self) -> list[str]:
        problems, timesteps = [], self.diffusion.timesteps
        if self.sample.steps > timesteps:
            problems.append(
                f"config.sample.steps must be at most config.diffusion.timesteps {timesteps}, "
                f"got {self.sample.steps}"
            )
        if self.train.given_noise >= timesteps:
            problems.append(
                f"config.train.given_noise must be less than config.diffusion.timesteps {timesteps}"
                f", got {self.train.given_noise}"
            )
        return problems + self._expert_problems() + self._kind_problems()

    def _kind_problems(self) -> list[str]:
        """Choices that belong to the other kind of noise."""
        diffusion, train = self.diffusion, self.train
        if diffusion.kind == "diffusion":
            shifts = {
                "diffusion.shift": diffusion.shift,
                "train.timestep_shift": train.timestep_shift,
            }
            problems = [
                f"config.{name} must be 1 with config.diffusion.kind 'diffusion', got {shift:g}"
                for name, shift in shifts.items()
                if shift != 1
            ]
            if diffusion.boundary:
                problems.append(
                    "config.diffusion.boundary must be 0 with config.diffusion.kind 'diffusion', "
                    f"got {diffusion.boundary:g}"
                )
            return problems
        fitting = {
            "diffusion.prediction": (diffusion.prediction, ("v",)),
            "sample.spacing": (self.sample.spacing, FlowSchedule.spacings),
            "distill.teacher": (self.distill.teacher, ("",)),
        }
        return [
            f"config.{name} must be {' or '.join(map(repr, needed))} with config.diffusion.kind "
            f"'flow', got {found!r}"
            for name, (found, needed) in fitting.items()
            if found not in needed
        ]

    def _held_out_problems(self) -> list[str]:
        data, train = self.data, self.train
        if data.source in WORLDS:  # whose held-out stories are drawn
            return []
        if data.held_out_share and data.held_out_paths:
            return ["config.data.held_out_share and held_out_paths: needs one or the other"]
        if data.held_out_share or data.held_out_paths:
            return []
        asking = [
            name
            for name, asked in (
                ("validate_every", train.validate_every),
                ("preview_every without preview_storyboards", train.preview_every),
            )
            if asked and not (name.startswith("preview") and train.preview_storyboards)
        ]
        return [
            f"config.train.{name} needs held-out stories: config.data.held_out_share, such as 0.05,"
            " or config.data.held_out_paths"
            for name in asking
        ]

    def _source_problems(self) -> list[str]:
        """The problems with the source of the data."""
        return {
            **dict.fromkeys(DRAWN, self._drawn_problems),
            "pixels": self._pixels_problems,
            "latents": self._latents_problems,
        }.get(self.data.source, list)()

    def _story_problems(self) -> list[str]:
        """Says if a story is more than one tensor can be, or its batch more than any machine's."""
        data, side, channels = self.data, self.data.size, 3
        height, width = (side, side) if data.source in WORLDS else (data.height, data.width)
        frames = data.frames
        if data.source == "latents":
            frames, channels = latent_frames(frames, VAE_FRAMES), data.channels
            height, width = height // data.latent_side, width // data.latent_side
        numbers = data.scenes * frames * height * width * channels
        if numbers <= MAX_STORY:
            return []
        sizes = "size" if data.source in WORLDS else "height and width"
        return [
            f"config.data.scenes, frames, {sizes} make stories of {numbers:.3g} numbers, "
            f"needs at most {MAX_STORY:.3g}"
        ]

    def _drawn_problems(self) -> list[str]:
        problems = self._pixel_model_problems() + self._indivisible(("size",), 1)
        data, patch = self.data, max(self.model.patch_size_t, 1)
        world = WORLDS[data.source]
        for name, least in (("size", world.least_size), ("frames", world.least_frames)):
            if getattr(data, name) < least:
                problems.append(
                    f"config.data.{name} must be at least {least} with {self._source}, "
                    f"got {getattr(data, name)}"
                )
        if data.actor:
            try:
                read_actor(data.actor)
            except ValueError as error:
                problems.append(f"config.data.actor: {error}")
        if world.has_global_prompt:
            try:
                check_global_text(self.model.mask)
            except ValueError as error:
                problems.append(f"config.model.mask: {self._source} has global prompts: {error}")
            short = data.short_frames
            if short and (short % patch or not world.least_frames <= short < data.frames):
                problems.append(
                    "config.data.short_frames must be 0 or a multiple of config.model.patch_size_t "
                    f"{patch} from {world.least_frames} on and less than config.data.frames "
                    f"{data.frames}, got {short}"
                )
            if short and data.stories % self.train.batch_size:
                problems.append(
                    "config.data.stories must be a multiple of config.train.batch_size "
                    f"{self.train.batch_size} with short_frames, got {data.stories}"
                )
        return problems

    def _pixels_problems(self) -> list[str]:
        return self._pixel_model_problems() + self._indivisible(("height", "width"), 1)

    def _pixel_model_problems(self) -> list[str]:
        problems = []
        patch = max(self.model.patch_size_t, 1)  # a patch of no size has a message of its own
        if self.data.frames % patch:
            problems.append(
                f"config.data.frames must be a multiple of config.model.patch_size_t {patch}, "
                f"got {self.data.frames}"
            )
        return problems

    def _latents_problems(self) -> list[str]:
        problems = []
        if self.train.eval_every:
            problems.append(
                f"config.train.eval_every must be 0 with {self._source}: only stories of pixels "
                f"can be looked at on the way; got {self.train.eval_every}"
            )
        return problems + self._indivisible(("height", "width"), self.data.latent_side)

    def _indivisible(self, names: tuple[str, ...], side: int) -> list[str]:
        """The sizes of the data that do not divide into patches, `side` pixels to a latent."""
        patch = max(self.model.patch_size, 1)
        unit = f"{side} x " if side > 1 else ""
        where = "" if self.data.source in WORLDS else f" with {self._source}"
        return [
            f"config.data.{name} must be a multiple of {unit}config.model.patch_size "
            f"{patch}{where}, got {getattr(self.data, name)}"
            for name in names
            if getattr(self.data, name) % (side * patch)
        ]

    @property
    def _source(self) -> str:
        return f"config.data.source {self.data.source!r}"
