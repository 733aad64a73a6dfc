"""From a config to the objects that it describes: model, schedule, tokenizer, optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from m2dit_jax.data.shapes import vocabulary
from m2dit_jax.diffusion.guidance import GIVEN_CHOICES
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.encoders.text_encoder import TextEncoderConfig
from m2dit_jax.encoders.tokenizer import build_word_tokenizer, tokenize_prompts
from m2dit_jax.model.attention import IMPLEMENTATIONS
from m2dit_jax.model.masks import MASKS
from m2dit_jax.model.transformer import TransformerConfig
from m2dit_jax.story_model import StoryModel
from m2dit_jax.training.optimizer import DECAYED, OPTIMIZERS, SCHEDULES, make_optimizer
from m2dit_jax.training.step import COMPUTE_DTYPES, StepConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Params = Any
PIXEL_CHANNELS = 3
FIRST_WORD_ID = 3  # after pad, end and unknown
# Pixels per latent, in all released models.
VAE_SIDE = 8
VAE_FRAMES = 4  # but for the first frame, which has a latent of its own

SOURCES = ("shapes", "encoded")
# The only source of data that reads these fields or sections; elsewhere they are not checked.
READ_BY = {
    "data.size": "shapes",
    "text_encoder": "shapes",
    "data.height": "encoded",
    "data.width": "encoded",
    "data.channels": "encoded",
    "data.text_dim": "encoded",
}

# What `check_config` asks of the fields of a config.
AT_LEAST = {
    "seed": 0,
    "data.scenes": 1,
    "data.frames": 2,
    "data.text_length": 2,
    "data.size": 8,
    "data.height": 1,
    "data.width": 1,
    "data.channels": 1,
    "data.text_dim": 1,
    "text_encoder.d_model": 1,
    "text_encoder.d_kv": 1,
    "text_encoder.d_ff": 1,
    "text_encoder.num_layers": 1,
    "text_encoder.num_heads": 1,
    "diffusion.timesteps": 2,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.warmup_steps": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "train.eval_every": 0,
    "train.eval_stories": 1,
    "train.learning_rate": 0,
    "train.weight_decay": 0,
    "sample.steps": 1,
    "sample.guidance_scale": 0,
    "model.layers": 1,
    "model.heads": 1,
    "model.head_dim": 16,
    "model.time_dim": 1,
    "model.patch_size": 1,
    "model.patch_size_t": 1,
}
SHARES = (
    "train.given_probability",
    "train.caption_dropout",
    "train.ema_decay",
    "train.adam_b2",
)
ABOVE_ZERO = (
    "diffusion.beta_start",
    "diffusion.beta_end",
    "diffusion.snr_shift",
    "model.spatial_scale",
    "sample.fps",
    "train.clip_norm",
    "train.adam_eps",
)
CHOICES = {
    "data.source": SOURCES,
    "model.mask": MASKS,
    "model.attention": IMPLEMENTATIONS,
    "train.given_scenes": GIVEN_CHOICES,
    "train.optimizer": OPTIMIZERS,
    "train.schedule": SCHEDULES,
    "train.decayed": DECAYED,
    "train.compute_dtype": tuple(COMPUTE_DTYPES),
}
# Field: the field that it must be a multiple of.
MULTIPLES = {
    "data.size": "model.patch_size",
    "train.batch_size": "train.accumulate",
}


@dataclass(frozen=True)
class Recipe:
    """What training, sampling and evaluation share, made from a config.

    For encoded data there is no tokenizer: the prompts were encoded with the videos.
    """

    config: ConfigDict
    graphdef: nnx.GraphDef
    schedule: NoiseSchedule
    tokenizer: "PreTrainedTokenizerFast | None"

    def init_params(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters as a nested dict of arrays."""
        return nnx.to_pure_dict(nnx.state(_story_model(self.config, nnx.Rngs(key)), nnx.Param))

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of `config.train`."""
        frozen = self.config.data.source == "shapes" and not self.config.text_encoder.trained
        return make_optimizer(self.config.train, train_text_encoder=not frozen)

    def step_config(self) -> StepConfig:
        """The fields of `config.train` that a training step reads."""
        train = self.config.train
        return StepConfig(
            given_probability=train.given_probability,
            given_scenes=train.given_scenes,
            caption_dropout=train.caption_dropout,
            accumulate=train.accumulate,
            ema_decay=train.ema_decay,
            compute_dtype=train.compute_dtype,
        )

    def tokenize(self, prompts: Sequence[str]) -> Int[np.ndarray, "N T"]:
        """Padded token ids. Raises ValueError for a prompt too long or with unknown words."""
        if self.tokenizer is None:
            raise ValueError(f"no prompts can be read with {_source(self.config)}")
        return tokenize_prompts(self.tokenizer, prompts, self.config.data.text_length)


def build_recipe(config: ConfigDict) -> Recipe:
    """Raises ValueError, naming field and value, if the config describes no possible model."""
    check_config(config)
    shapes = config.data.source == "shapes"
    tokenizer = build_word_tokenizer(vocabulary()) if shapes else None
    model = nnx.eval_shape(lambda: _story_model(config, nnx.Rngs(0)))
    return Recipe(config, nnx.graphdef(model), NoiseSchedule(**config.diffusion), tokenizer)


def check_config(config: ConfigDict) -> None:
    """Raises ValueError for a value that cannot be, naming every such field."""

    def is_read(field: str) -> bool:
        source = READ_BY.get(field) or READ_BY.get(field.split(".")[0])
        return source in (None, _field(config, "data.source"))

    problems = [
        f"config.{field} must be at least {low}, got {_field(config, field)}"
        for field, low in AT_LEAST.items()
        if is_read(field) and not _field(config, field) >= low  # so that NaN fails
    ] + [
        f"config.{field} must be between 0 and 1, got {_field(config, field)}"
        for field in SHARES
        if not 0 <= _field(config, field) <= 1
    ]
    problems += [
        f"config.{field} must be above 0, got {_field(config, field)}"
        for field in ABOVE_ZERO
        if not _field(config, field) > 0
    ]
    problems += [
        f"config.{field} must be one of {', '.join(names)}, got {_field(config, field)!r}"
        for field, names in CHOICES.items()
        if _field(config, field) not in names
    ]
    problems += [
        f"config.{field} must be a multiple of config.{unit} {_field(config, unit)}, "
        f"got {_field(config, field)}"
        for field, unit in MULTIPLES.items()
        if is_read(field)
        and _field(config, unit) >= 1
        and _field(config, field) % _field(config, unit)
    ]
    base_grid = _field(config, "model.base_grid")
    if base_grid and not (len(base_grid) == 3 and min(base_grid) >= 1):
        problems.append(
            "config.model.base_grid must be empty or three numbers above 0 (time, height, width), "
            f"got {base_grid}"
        )
    if config.train.warmup_steps >= config.train.steps:
        problems.append(
            f"config.train.warmup_steps must be less than config.train.steps "
            f"{config.train.steps}, got {config.train.warmup_steps}"
        )
    if config.sample.steps > config.diffusion.timesteps:
        problems.append(
            f"config.sample.steps must be at most config.diffusion.timesteps "
            f"{config.diffusion.timesteps}, got {config.sample.steps}"
        )
    problems += _source_problems(config)
    if problems:
        raise ValueError("\n".join(problems))


def _source_problems(config: ConfigDict) -> list[str]:
    """What does not fit the source of the data."""
    data, model, train = config.data, config.model, config.train
    # Patches of no size have a message of their own.
    patch, patch_t = max(model.patch_size, 1), max(model.patch_size_t, 1)
    problems = []
    if data.source == "shapes":
        if data.frames % patch_t:
            problems.append(
                "config.data.frames must be a multiple of config.model.patch_size_t "
                f"{patch_t}, got {data.frames}"
            )
        if _field(config, "train.init_from"):
            problems.append(
                f"config.train.init_from must be empty with {_source(config)}: the released "
                f"weights are not for pixels; got {train.init_from!r}"
            )
    elif data.source == "encoded":
        problems += [
            f"config.data.{name} must be a multiple of {VAE_SIDE} x config.model.patch_size "
            f"{patch} with {_source(config)}, got {data[name]}"
            for name in ("height", "width")
            if data[name] % (VAE_SIDE * patch)
        ]
        latent_frames, rest = divmod(data.frames - 1, VAE_FRAMES)
        if rest or (latent_frames + 1) % patch_t:
            problems.append(
                f"config.data.frames must be {VAE_FRAMES}k + 1, with k + 1 a multiple of "
                f"config.model.patch_size_t {patch_t}, with {_source(config)}, got {data.frames}"
            )
        if train.eval_every:
            problems.append(
                f"config.train.eval_every must be 0 with {_source(config)}: only shapes stories "
                f"can be scored; got {train.eval_every}"
            )
    return problems


def _source(config: ConfigDict) -> str:
    return f"config.data.source {config.data.source!r}"


def _field(config: ConfigDict, path: str) -> Any:
    for name in path.split("."):
        if name not in config:
            raise ValueError(f"config.{path} is missing; configs/base.py has every field")
        config = config[name]
    return config


def make_transformer_config(config: ConfigDict) -> TransformerConfig:
    """The transformer of `config.model` for the channels and text embeddings of the data."""
    shapes = config.data.source == "shapes"
    return TransformerConfig(
        **config.model.to_dict() | {"base_grid": tuple(config.model.base_grid) or None},
        channels=PIXEL_CHANNELS if shapes else config.data.channels,
        text_dim=config.text_encoder.d_model if shapes else config.data.text_dim,
    )


def _story_model(config: ConfigDict, rngs: nnx.Rngs) -> StoryModel:
    text_encoder = None
    if config.data.source == "shapes":
        text = config.text_encoder
        text_encoder = TextEncoderConfig(
            vocab_size=FIRST_WORD_ID + len(vocabulary()),
            d_model=text.d_model,
            d_kv=text.d_kv,
            d_ff=text.d_ff,
            num_layers=text.num_layers,
            num_heads=text.num_heads,
        )
    return StoryModel(text_encoder, make_transformer_config(config), rngs=rngs)
