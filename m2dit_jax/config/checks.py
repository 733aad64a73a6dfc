"""What a config must be: every problem with its field, its value and what would be right."""

from typing import Any

from ml_collections import ConfigDict

from m2dit_jax.diffusion.guidance import GIVEN_CHOICES
from m2dit_jax.models.attention.dispatch import CHOICES as ATTENTION
from m2dit_jax.models.cogvideox.transformer import REMAT
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.models.masks import MASKS
from m2dit_jax.training.optimizer import DECAYED, MOMENTUM_DTYPES, OPTIMIZERS, SCHEDULES
from m2dit_jax.training.step import COMPUTE_DTYPES

# Pixels per latent; the first frame has a latent of its own.
VAE_SIDE = DEFAULT.vae.config({}).spatial_compression
VAE_FRAMES = DEFAULT.vae.config({}).temporal_compression_ratio

SOURCES = ("shapes", "pixels", "latents")
# The sources of data that read these fields or sections; for others they are not checked.
READ_BY = {
    "data.size": ("shapes",),
    "text_encoder": ("shapes", "pixels"),
    "data.height": ("pixels", "latents"),
    "data.width": ("pixels", "latents"),
    "data.channels": ("latents",),
    "data.text_dim": ("latents",),
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
    "train.scene_caption_dropout",
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
    "model.attention": ATTENTION,
    "model.remat": tuple(REMAT),
    "train.given_scenes": GIVEN_CHOICES,
    "train.optimizer": OPTIMIZERS,
    "train.schedule": SCHEDULES,
    "train.decayed": DECAYED,
    "train.momentum_dtype": MOMENTUM_DTYPES,
    "train.compute_dtype": tuple(COMPUTE_DTYPES),
}
# Field: the field that it must be a multiple of.
MULTIPLES = {
    "data.size": "model.patch_size",
    "train.batch_size": "train.accumulate",
}


def check_config(config: ConfigDict) -> None:
    """Raises ValueError for a value that cannot be, naming every such field."""

    def is_read(field: str) -> bool:
        sources = READ_BY.get(field) or READ_BY.get(field.split(".")[0]) or SOURCES
        return _field(config, "data.source") in sources

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
    if data.source == "latents":
        latent_frames, rest = divmod(data.frames - 1, VAE_FRAMES)
        if rest or (latent_frames + 1) % patch_t:
            problems.append(
                f"config.data.frames must be {VAE_FRAMES}k + 1, with k + 1 a multiple of "
                f"config.model.patch_size_t {patch_t}, with {_source(config)}, got {data.frames}"
            )
        if train.eval_every:
            problems.append(
                f"config.train.eval_every must be 0 with {_source(config)}: only stories of pixels "
                f"can be looked at on the way; got {train.eval_every}"
            )
    else:
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
    if data.source != "shapes":
        side = VAE_SIDE if data.source == "latents" else 1
        unit = f"{VAE_SIDE} x config.model.patch_size" if side > 1 else "config.model.patch_size"
        problems += [
            f"config.data.{name} must be a multiple of {unit} {patch} with {_source(config)}, "
            f"got {data[name]}"
            for name in ("height", "width")
            if data[name] % (side * patch)
        ]
    return problems


def _source(config: ConfigDict) -> str:
    return f"config.data.source {config.data.source!r}"


def _field(config: ConfigDict, path: str) -> Any:
    for name in path.split("."):
        if name not in config:
            raise ValueError(f"config.{path} is missing; configs/base.py has every field")
        config = config[name]
    return config
