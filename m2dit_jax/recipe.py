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
from m2dit_jax.training.step import StepConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Params = Any
PIXEL_CHANNELS = 3
FIRST_WORD_ID = 3  # after pad, end and unknown


# What `check_config` asks of the fields of a config.
AT_LEAST = {
    "seed": 0,
    "data.scenes": 1,
    "data.frames": 2,
    "data.text_length": 2,
    "data.size": 8,
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
    "sample.fps",
    "train.clip_norm",
    "train.adam_eps",
)
CHOICES = {
    "model.mask": MASKS,
    "model.attention": IMPLEMENTATIONS,
    "train.given_scenes": GIVEN_CHOICES,
    "train.optimizer": OPTIMIZERS,
    "train.schedule": SCHEDULES,
    "train.decayed": DECAYED,
}
# Field: the field that it must be a multiple of.
MULTIPLES = {
    "data.size": "model.patch_size",
    "data.frames": "model.patch_size_t",
    "train.batch_size": "train.accumulate",
}


@dataclass(frozen=True)
class Recipe:
    """What training, sampling and evaluation share, made from a config."""

    config: ConfigDict
    graphdef: nnx.GraphDef
    schedule: NoiseSchedule
    tokenizer: "PreTrainedTokenizerFast"

    def init_params(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters as a nested dict of arrays."""
        return nnx.to_pure_dict(nnx.state(_story_model(self.config, nnx.Rngs(key)), nnx.Param))

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of `config.train`."""
        return make_optimizer(self.config.train, self.config.text_encoder.trained)

    def step_config(self) -> StepConfig:
        """The fields of `config.train` that a training step reads."""
        train = self.config.train
        return StepConfig(
            given_probability=train.given_probability,
            given_scenes=train.given_scenes,
            caption_dropout=train.caption_dropout,
            accumulate=train.accumulate,
            ema_decay=train.ema_decay,
        )

    def tokenize(self, prompts: Sequence[str]) -> Int[np.ndarray, "N T"]:
        """Padded token ids. Raises ValueError for a prompt too long or with unknown words."""
        return tokenize_prompts(self.tokenizer, prompts, self.config.data.text_length)


def build_recipe(config: ConfigDict) -> Recipe:
    """Raises ValueError, naming field and value, if the config describes no possible model."""
    check_config(config)
    tokenizer = build_word_tokenizer(vocabulary())
    model = nnx.eval_shape(lambda: _story_model(config, nnx.Rngs(0)))
    return Recipe(config, nnx.graphdef(model), NoiseSchedule(**config.diffusion), tokenizer)


def check_config(config: ConfigDict) -> None:
    """Raises ValueError for a value that cannot be, naming every such field."""
    problems = [
        f"config.{field} must be at least {low}, got {_field(config, field)}"
        for field, low in AT_LEAST.items()
        if not _field(config, field) >= low  # so that NaN fails
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
        if _field(config, unit) >= 1 and _field(config, field) % _field(config, unit)
    ]
    if config.train.warmup_steps >= config.train.steps:
        problems.append(
            f"config.train.warmup_steps must be less than config.train.steps "
            f"{config.train.steps}, got {config.train.warmup_steps}"
        )
    if problems:
        raise ValueError("\n".join(problems))


def _field(config: ConfigDict, path: str) -> Any:
    for name in path.split("."):
        if name not in config:
            raise ValueError(f"config.{path} is missing; configs/base.py has every field")
        config = config[name]
    return config


def _story_model(config: ConfigDict, rngs: nnx.Rngs) -> StoryModel:
    text = config.text_encoder
    return StoryModel(
        TextEncoderConfig(
            vocab_size=FIRST_WORD_ID + len(vocabulary()),
            d_model=text.d_model,
            d_kv=text.d_kv,
            d_ff=text.d_ff,
            num_layers=text.num_layers,
            num_heads=text.num_heads,
        ),
        TransformerConfig(channels=PIXEL_CHANNELS, text_dim=text.d_model, **config.model),
        rngs=rngs,
    )
