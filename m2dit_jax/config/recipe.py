"""The objects that a config describes: model, noise schedule, tokenizer, world."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from m2dit_jax.config.bounds import VAE_FRAMES
from m2dit_jax.config.diffusion_fields import DiffusionConfig
from m2dit_jax.config.schema import Config
from m2dit_jax.data.tokenizer import (
    BYTE_VOCABULARY,
    build_byte_tokenizer,
    build_word_tokenizer,
    pad_or_truncate,
    tokenize_prompts,
)
from m2dit_jax.data.worlds import WORLDS, Lengths, StorySource, World
from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.coding import latent_frames
from m2dit_jax.models.families import family_named
from m2dit_jax.models.family import Family
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.linear import quantize_layers
from m2dit_jax.models.lora import add_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Params = Any
PIXEL_CHANNELS = 3
FIRST_WORD_ID = 3  # after pad, end and unknown


@dataclass(frozen=True)
class Recipe:
    """A config with the objects that training, sampling and evaluation share.

    For latents there is no tokenizer: the prompts were encoded with the videos.
    """

    config: Config
    graphdef: nnx.GraphDef
    schedule: Schedule
    tokenizer: "PreTrainedTokenizerBase | None"

    @property
    def family(self) -> Family:
        """The family of models that the network is of."""
        return family_named(self.config.model.family)

    @property
    def world(self) -> World | None:
        """The world that draws the stories; None if they come from files."""
        return WORLDS.get(self.config.data.source)

    @property
    def has_global_text(self) -> bool:
        """Whether the model learns with a text that all scenes see, be it empty."""
        return self.world is not None and self.world.has_global_prompt

    def init_params(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters as a nested dict of arrays, those of adapters among them."""
        return nnx.to_pure_dict(nnx.state(self.new_model(nnx.Rngs(key)), nnx.Param))

    def new_model(self, rngs: nnx.Rngs) -> Any:
        """A model with fresh parameters."""
        return _story_model(self.config, rngs)

    def tokenize(self, prompts: Sequence[str]) -> Int[np.ndarray, "N T"]:
        """Padded token ids; a prompt of too many bytes keeps the first ones and the end.

        Raises ValueError for a prompt of words that is too long or has unknown ones.
        """
        length = self.config.data.text_length
        if self.tokenizer is None:
            raise ValueError("with config.data.source 'latents' the prompts were encoded before")
        if self.config.data.source == "pixels":
            ids = self.tokenizer(list(prompts), verbose=False)["input_ids"]
            return np.stack([pad_or_truncate(self.tokenizer, row, length) for row in ids])
        return tokenize_prompts(self.tokenizer, prompts, length)

    def open_stories(
        self,
        seed: int,
        lengths: Sequence[Lengths],
        held_out: bool,
        count: int,
        in_a_row: int = 1,
        actor: str | None = None,
    ) -> StorySource:
        """Stories of the world in the size of the run's; `actor` None: the run's own.

        Arguments as of `World.open`. Raises ValueError for a run on files.
        """
        data = self.config.data
        if self.world is None:
            raise ValueError(f"no world draws the stories of config.data.source {data.source!r}")
        actor = data.actor if actor is None else actor
        return self.world.open(seed, lengths, data.size, held_out, count, in_a_row, actor)

    def scene_size(self) -> tuple[int, int, int]:
        """Frames, height and width of a scene, in pixels."""
        data = self.config.data
        if self.world is not None:
            return data.frames, data.size, data.size
        return data.frames, data.height, data.width

    def latent_shape(self) -> tuple[int, int, int, int]:
        """Frames, rows, columns and channels of a scene as the transformer gets it."""
        frames, height, width = self.scene_size()
        if self.config.data.source != "latents":
            return frames, height, width, PIXEL_CHANNELS
        in_time = latent_frames(frames, VAE_FRAMES, self.config.model.patch_size_t)
        side = self.config.data.latent_side
        return in_time, height // side, width // side, self.config.data.channels

    def story_layout(self) -> Layout:
        """The tokens of a story, without padding."""
        data, model = self.config.data, self.config.model
        frames, height, width, _ = self.latent_shape()
        patches = (height // model.patch_size) * (width // model.patch_size)
        video = (frames // model.patch_size_t) * patches
        if self.has_global_text:
            counts = (0, *(video,) * data.scenes)
            return Layout(
                data.scenes + 1, data.text_length, counts, global_text=True, frame=patches
            )
        return Layout(data.scenes, data.text_length, video, frame=patches)


def build_recipe(config: Config | ConfigDict) -> Recipe:
    """The recipe of a config, or of a config file's or checkpoint's ConfigDict.

    Raises ValueError, naming field and value, if it describes no possible model.
    """
    config = config if isinstance(config, Config) else Config.from_dict(config)
    tokenizer = None
    if config.data.source in WORLDS:
        tokenizer = build_word_tokenizer(WORLDS[config.data.source].vocabulary())
    elif config.data.source == "pixels":
        tokenizer = build_byte_tokenizer()
    model = nnx.eval_shape(lambda: _story_model(config, nnx.Rngs(0)))
    return Recipe(config, nnx.graphdef(model), make_schedule(config.diffusion), tokenizer)


def make_schedule(config: DiffusionConfig) -> Schedule:
    """The noise schedule of `config.diffusion`."""
    if config.kind == "flow":
        return FlowSchedule(config.timesteps, config.shift, boundary=config.boundary)
    values = asdict(config)
    return NoiseSchedule(
        **{name: values[name] for name in values.keys() - {"kind", "shift", "boundary"}}
    )


def without_adapters(config: Config) -> Config:
    """The config of the same model without adapters: what their weights are added to."""
    lora = replace(config.train.lora, rank=0)
    return replace(config, train=replace(config.train, lora=lora))


def make_transformer_config(config: Config) -> Any:
    """The transformer of `config.model` for the channels and text embeddings of the data."""
    latents = config.data.source == "latents"
    model = asdict(config.model)
    return family_named(model.pop("family")).transformer_config(
        **model,
        channels=config.data.channels if latents else PIXEL_CHANNELS,
        text_dim=config.data.text_dim if latents else config.text_encoder.d_model,
    )


def _story_model(config: Config, rngs: nnx.Rngs) -> Any:
    text_encoder, family = None, family_named(config.model.family)
    if config.data.source != "latents":
        text, world = config.text_encoder, WORLDS.get(config.data.source)
        text_encoder = family.text_encoder_config(
            vocab_size=FIRST_WORD_ID + len(world.vocabulary()) if world else BYTE_VOCABULARY,
            d_model=text.d_model,
            d_kv=text.d_kv,
            d_ff=text.d_ff,
            num_layers=text.num_layers,
            num_heads=text.num_heads,
        )
    model: Any = family.story_model(text_encoder, make_transformer_config(config), rngs=rngs)
    lora = config.train.lora
    if lora.rank:
        add_adapters(model.transformer.blocks, lora.targets, lora.rank, lora.scale, rngs)
    if lora.quantize is not None:
        quantize_layers(model.transformer, lora.quantize)
    return model
