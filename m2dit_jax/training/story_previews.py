"""Previews of a run: videos of the same stories each time, sampled on all devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from m2dit_jax.config.files import find_storyboard
from m2dit_jax.config.recipe import Recipe
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.models.coding import encode_prompts
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.placement import Placement
from m2dit_jax.parallel.batches import on_mesh, rows_to_read
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import batch_sharding, replicated, story_shards
from m2dit_jax.parallel.processes import print_once
from m2dit_jax.pipeline.codecs import Codec, PixelCodec, VaeCodec
from m2dit_jax.pipeline.denoise import denoise_batch
from m2dit_jax.pipeline.load import base_model, default_dtype, run_options
from m2dit_jax.pipeline.memory import NetworkSet
from m2dit_jax.pipeline.prompts import PromptTokenizer
from m2dit_jax.report.sheets import stories_sheet
from m2dit_jax.stories.noise import story_keys
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.training.data import TrainingData
from m2dit_jax.training.preview import PREVIEW_STORIES, captions_text, small_video, write_videos
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.finite import check_finite
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights.released import ReleasedModel

Params = Any


@dataclass(frozen=True)
class PreviewStory:
    """A story to preview: its title, its captions, and its prompts as those of a batch."""

    title: str
    captions: tuple[str, ...]
    prompts: Int[np.ndarray, "P T"] | Float[np.ndarray, "P T E"]


def choose_stories(
    recipe: Recipe, data: TrainingData, model: ReleasedModel | None
) -> list[PreviewStory]:
    """The stories of `config.train.preview_storyboards`, or else some held-out ones.

    Raises ValueError, naming the storyboard, if it has too few scenes or cannot be encoded, and if
    there is no held-out story.
    """
    names = [name.strip() for name in recipe.config.train.preview_storyboards.split(",")]
    if names != [""]:
        return _from_storyboards(recipe, names, model)
    held_out = data.held_out(PREVIEW_STORIES)
    if not held_out:
        raise ValueError("config.train.preview_every: there is no held-out story long enough")
    return [
        PreviewStory(f"held-out story {number}", story.captions, np.asarray(story.sample.prompts))
        for number, story in enumerate(held_out)
    ]


def _from_storyboards(
    recipe: Recipe, names: Sequence[str], model: ReleasedModel | None
) -> list[PreviewStory]:
    scenes, chosen = recipe.config.data.scenes, []
    for name in names:
        try:
            board = Storyboard.read(find_storyboard(name))
        except ValueError as error:
            raise ValueError(f"config.train.preview_storyboards: {error}") from error
        captions = tuple(scene.prompt for scene in board.scenes[:scenes])
        if len(captions) < scenes:
            raise ValueError(
                f"config.train.preview_storyboards: {name} has {len(captions)} scenes, a story of "
                f"this model {scenes}"
            )
        chosen.append((Path(name).stem, captions, board.global_prompt))
    if model is None:
        return [
            PreviewStory(
                title,
                captions,
                recipe.tokenize([text, *captions] if recipe.has_global_text else captions),
            )
            for title, captions, text in chosen
        ]
    tokenizer = PromptTokenizer(model.tokenizer(), model.text_length)
    for title, captions, _ in chosen:
        for scene, note in enumerate(map(tokenizer.check, captions), 1):
            if note:
                print_once(f"preview {title}, scene {scene}: {note}")
    # Read, used and freed before the training state is made.
    text_encoder = model.text_encoder(default_dtype())
    ids = np.stack([[tokenizer.ids(prompt) for prompt in captions] for _, captions, _ in chosen])
    embeds = np.asarray(encode_prompts(text_encoder, jnp.asarray(ids)))
    check_finite("text embeddings of the preview's captions", embeds)
    return [
        PreviewStory(title, captions, row)
        for (title, captions, _), row in zip(chosen, embeds, strict=True)
    ]


def open_preview_model(recipe: Recipe) -> ReleasedModel | None:
    """The model folder that previews of latents need; None for pixels, which need none.

    Raises ValueError if it is no model folder, or its latents are others than the run's.
    """
    config = recipe.config
    if config.data.source != "latents":
        return None
    chosen, field = config.train.preview_model, "config.train.preview_model"
    if not chosen:
        field = config.first_weights_field
    if not (chosen or config.first_weights):
        raise ValueError(
            "config.train.preview_every needs a model folder whose VAE decodes the previews: "
            "config.train.preview_model"
        )
    try:
        path = base_model(named_place(config.first_weights), config, chosen or None)
        model = ReleasedModel(path)
        model.check_weights(("text_encoder", "vae"))
    except ValueError as error:
        raise ValueError(
            f"{field}: {error}; previews need a model folder with a VAE, which "
            "config.train.preview_model can name"
        ) from error
    channels = model.vae_config.latent_channels
    if channels != config.data.channels:
        raise ValueError(
            f"{field}: the VAE of {path} has {channels} channels, config.data.channels"
            f" is {config.data.channels}"
        )
    return model


class Previews:
    """The previews of a run, their sampling compiled; all processes take part.

    Sampled with the settings of `config.sample`, story i by seed + i, as `Pipeline` would.
    """

    def __init__(
        self,
        recipe: Recipe,
        mesh: Mesh,
        stories: Sequence[PreviewStory],
        empty_prompt: Any,
        model: ReleasedModel | None,
        params: Params,
    ):
        """`params` have the shapes, dtypes and shardings of the weights."""
        self.stories = stories
        self._recipe, self._model = recipe, model
        count = -(-len(stories) // story_shards(mesh)) * story_shards(mesh)
        rows = rows_to_read(mesh, count)
        local = np.stack([stories[row % len(stories)].prompts for row in rows])
        self._prompts = partial(on_mesh, local, rows, count, mesh)
        sample = jax.jit(
            partial(sample_stories, recipe, placement_on(mesh), empty_prompt),
            out_shardings=replicated(mesh),
        )
        prompts = jax.ShapeDtypeStruct(
            (count, *local.shape[1:]), local.dtype, sharding=batch_sharding(mesh)
        )
        self._sample: Callable = sample.lower(params, prompts).compile()

    def latents(self, params: Params) -> Float[np.ndarray, "N S f h w C"]:
        """The latents of all stories, in every process."""
        made = self._sample(params, self._prompts())
        return np.asarray(made.addressable_data(0), np.float32)[: len(self.stories)]

    def write(
        self, folder: Path, step: int, latents: Float[np.ndarray, "N S f h w C"]
    ) -> tuple[Image.Image, str, UInt8[np.ndarray, "F2 H2 W2 3"]]:
        """Decodes the stories, writes a sheet and videos; returns sheet, captions and small video.

        For the first process, on one device.
        """
        codec, networks = self._codec()
        flat = latents.reshape(-1, *latents.shape[2:])
        with networks.session():
            frames = codec.decode(networks, flat, self._recipe.config.data.frames, "preview")
        videos = frames.reshape(*latents.shape[:2], *frames.shape[1:])
        return self._write(folder, step, videos)

    def _write(
        self, folder: Path, step: int, videos: UInt8[np.ndarray, "N S F H W 3"]
    ) -> tuple[Image.Image, str, UInt8[np.ndarray, "F2 H2 W2 3"]]:
        folder.mkdir(exist_ok=True)
        sheet = stories_sheet(
            [
                (video, story.captions, [False] * len(video))
                for video, story in zip(videos, self.stories, strict=True)
            ],
            [f"step {step}, {story.title}" for story in self.stories],
        )
        name = f"stories_{step:06}"
        with atomic_write(folder / f"{name}.png") as part:
            sheet.save(part, format="PNG")
        write_videos(folder, name, videos, self._recipe.config.sample.fps)
        titles = [story.title for story in self.stories]
        captions = captions_text(titles, [story.captions for story in self.stories])
        return sheet, captions, small_video(videos)

    def _codec(self) -> tuple[Codec, NetworkSet]:
        model = self._model
        if model is None:
            return PixelCodec(lambda *size: None), NetworkSet({}, False)
        dtype = default_dtype()
        codec = VaeCodec(model.latent_shape, None, dtype, model.family.decode_in_strips)
        return codec, NetworkSet({"VAE": partial(model.vae, dtype)}, False)


def sample_stories(
    recipe: Recipe,
    placement: Placement,
    empty_prompt: Any,
    params: Params,
    prompts: Int[Array, "B P T"] | Float[Array, "B P T E"],
) -> Float[Array, "B S F H W C"]:
    """The latents of stories that are made from their prompts alone, all steps in one program."""
    config = recipe.config
    stories, scenes = prompts.shape[0], config.data.scenes
    options = run_options(recipe)
    dtype = jnp.dtype(config.train.compute_dtype)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    model = nnx.merge(recipe.graphdef, placement.gather_outside_blocks(params))
    embeds = model.encode_text(prompts)
    negative = None
    if options.needs_negative:
        empty = jnp.broadcast_to(jnp.asarray(empty_prompt, prompts.dtype), prompts.shape)
        negative = model.encode_text(empty)
    clean = jnp.zeros((stories, scenes, *recipe.latent_shape()))
    with jax.ensure_compile_time_eval():  # which scenes are given decides the program
        given = jnp.zeros((stories, scenes), bool)
    transformer = LoadedNetwork(nnx.graphdef(model.transformer), params["transformer"])
    return denoise_batch(
        transformer,
        options.table(recipe.schedule, scenes),
        Conditions(clean, given, embeds, negative),
        story_keys([config.seed + number for number in range(stories)], range(scenes)),
        placement,
    ).latents
