"""What a run trains on: batches from any step on, their shapes, and the empty prompt."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.config.data_fields import DataConfig
from m2dit_jax.config.recipe import Recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.data.encoded import EncodedDataset, EncodedInfo, dataset_folders
from m2dit_jax.data.interleaved import Interleaved
from m2dit_jax.data.loader import (
    Batch,
    EncodedSamples,
    SampleAt,
    make_loader,
    unequal_lengths,
    world_samples,
)
from m2dit_jax.data.pictures import ScenePictures, StoryPictures
from m2dit_jax.data.story_order import draw_held_out, scenes_in_order
from m2dit_jax.data.worlds import World
from m2dit_jax.training.frame_rates import rate_misfit
from m2dit_jax.utils.machine import raise_open_files_limit
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights.latent_scale import find_scaling_factor

_FROM_BUCKETS = 16, 16  # threads, and batches ahead, where each read takes its time
_HELD_OUT = 7  # a stream of random numbers of its own
# Of a world, where the config names no number; then they come round again.
TRAINING_STORIES = 10_000_000


@dataclass(frozen=True)
class HeldOutStory:
    """A story that is not trained on: a row of a batch, and its captions."""

    sample: Any
    captions: tuple[str, ...]


@dataclass(frozen=True)
class TrainingData:
    """The data of a run; which batch a step gets depends on seed and step alone.

    `batch_shapes` has one entry for each size that batches have; `latent_scale` is what the VAE's
    latents are multiplied by (1 for pixels).
    """

    batches: Callable[[int, Sequence[int]], Iterator[Any]]
    """The given rows of all batches from a number on."""
    batch_shapes: tuple[tuple[Any, tuple[int, ...] | None], ...]
    """With the frames of each scene where they are unequal."""
    empty_prompt: Int[np.ndarray, " T"] | Float[Array, "T E"]
    latent_scale: float
    datasets: tuple[EncodedDataset, ...]
    """Empty for worlds."""
    held_out: Callable[[int], list[HeldOutStory]]
    """So many held-out stories, fewer if there are fewer; all have the first one's size."""


def open_training_data(recipe: Recipe) -> TrainingData:
    """The data of `config.data`. Raises ValueError if they are missing or do not fit the model."""
    config = recipe.config
    data, stories = config.data, config.train.batch_size
    if recipe.world is not None:
        return _open_world(recipe, recipe.world)
    raise_open_files_limit()
    datasets = tuple(EncodedDataset(folder) for folder in _folders(data))
    apart = tuple(EncodedDataset(folder) for folder in dataset_folders(data.held_out_paths))
    problems = [line for dataset in (*datasets, *apart) for line in _misfits(dataset, config)]
    if len({dataset.info.scaling_factor for dataset in datasets}) > 1:
        problems.append("the datasets were encoded with VAEs of different scaling factors")
    problems += _scaling_misfits(datasets, config)
    if problems:
        raise ValueError("\n".join(problems))
    share, patch = config.train.image_probability, config.model.patch_size_t
    pictures = ScenePictures(config.seed, share, patch) if share else None
    left_out = [_left_out(dataset, config, number) for number, dataset in enumerate(datasets)]
    samples = EncodedSamples(
        datasets,
        data.scenes,
        stories,
        config.seed,
        [float(weight) for weight in data.weights] or None,
        recipe.tokenize if data.source == "pixels" else None,
        left_out,
        pictures,
    )
    chosen = list(zip(datasets, left_out, strict=True))
    if apart:
        chosen = [(dataset, frozenset(range(len(dataset)))) for dataset in apart]
    return _training_data(
        recipe,
        samples,
        datasets,
        [(batch, 0) for batch in samples.examples()],
        lambda most: _held_out_encoded(samples, chosen, data.scenes, most),
    )


def _left_out(dataset: EncodedDataset, config: Config, number: int) -> frozenset[int]:
    try:
        return draw_held_out(
            len(dataset), config.data.held_out_share, (config.seed, number, _HELD_OUT)
        )
    except ValueError as error:
        raise ValueError(f"config.data.held_out_share: {dataset.path}: {error}") from error


def _open_world(recipe: Recipe, world: World) -> TrainingData:
    config = recipe.config
    data, stories = config.data, config.train.batch_size
    lengths = world.lengths(data.scenes, data.frames, data.short_frames)
    ragged = len(lengths) > 1
    # Stories of a batch have the same lengths, also when they come round again.
    count = data.stories or TRAINING_STORIES
    count -= count % stories if ragged else 0
    source = recipe.open_stories(config.seed, lengths, False, count, stories)
    if data.actor and data.actor_share < 1:
        any_actor = recipe.open_stories(config.seed, lengths, False, TRAINING_STORIES, actor="")
        source = Interleaved(source, any_actor, data.actor_share, TRAINING_STORIES)
    recipe.tokenize(world.longest_prompts())
    share, pictures = config.train.image_probability, None
    examples = list(range(len(lengths)))
    if share:
        patch = config.model.patch_size_t
        pictures = StoryPictures(world, config.seed, share, patch, len(lengths))
        examples = pictures.examples()
    samples = world_samples(source, recipe.tokenize, stories, ragged or bool(share), pictures)
    return _training_data(
        recipe,
        samples,
        (),
        [(batch, 0) for batch in examples],
        partial(_held_out_drawn, recipe, world),
    )


def _held_out_drawn(recipe: Recipe, world: World, most: int) -> list[HeldOutStory]:
    """Stories whose scenes all are long."""
    data = recipe.config.data
    lengths = world.lengths(data.scenes, data.frames, 0)
    source = recipe.open_stories(recipe.config.seed, lengths, True, most)
    return [
        HeldOutStory(Batch(story.video, recipe.tokenize(story.prompts)), tuple(story.captions))
        for story in (source[number] for number in range(most))
    ]


def _held_out_encoded(
    samples: EncodedSamples,
    chosen: Sequence[tuple[EncodedDataset, frozenset[int]]],
    scenes: int,
    most: int,
) -> list[HeldOutStory]:
    """Held-out stories, in turn from each dataset that has scenes of the first one's size."""
    by_dataset = [
        [
            (dataset, sample)
            for sample in scenes_in_order(
                dataset.scene_counts, sorted(stories), scenes, dataset.info.kind == "clips"
            )
        ]
        for dataset, stories in chosen
        if dataset.info.arrays == chosen[0][0].info.arrays
    ]
    in_turn = [item for turn in zip_longest(*by_dataset) for item in turn if item is not None]
    return [
        HeldOutStory(
            samples.read(dataset, sample),
            tuple(dataset[story]["captions"][scene] for story, scene in sample),
        )
        for dataset, sample in in_turn[:most]
    ]


def _training_data(
    recipe: Recipe,
    sample_at: SampleAt,
    datasets: tuple[EncodedDataset, ...],
    examples: list[tuple[int, int]],
    held_out: Callable[[int], list[HeldOutStory]],
) -> TrainingData:
    stories = recipe.config.train.batch_size
    samples = [sample_at(*at) for at in examples]
    shapes = dict.fromkeys(
        (
            jax.tree.map(lambda x: jax.ShapeDtypeStruct((stories, *x.shape), x.dtype), sample),
            unequal_lengths(sample),
        )
        for sample in samples
    )
    scaling = {dataset.info.scaling_factor for dataset in datasets}
    latents = recipe.config.data.source == "latents"
    return TrainingData(
        batches=lambda first, rows: make_loader(
            sample_at, rows, first, *(_FROM_BUCKETS if any(d.is_remote for d in datasets) else ())
        ),
        batch_shapes=tuple(shapes),
        empty_prompt=(
            jnp.asarray(datasets[0].empty_caption) if latents else recipe.tokenize([""])[0]
        ),
        latent_scale=float(scaling.pop() or 1.0) if latents else 1.0,
        datasets=datasets,
        held_out=held_out,
    )


def _folders(data: DataConfig) -> list[Path]:
    folders = dataset_folders(data.paths)
    if not folders:
        raise ValueError(
            f"config.data.paths is empty; with config.data.source {data.source!r} it names the "
            "folders that python -m m2dit_jax.encode wrote"
        )
    return folders


def _misfits(dataset: EncodedDataset, config: Config) -> list[str]:
    """Each property of a dataset that is not as the config says."""
    data, info = config.data, dataset.info
    codec = {"pixels": "pixels", "latents": "vae"}[data.source]
    if info.codec != codec:
        return [
            f"{dataset.path}: was encoded with the codec {info.codec}, config.data.source "
            f"{data.source!r} needs {codec}"
        ]
    wanted = {"patch": _patch_misfit(info, config), "fps": rate_misfit(dataset, data.fps)}
    if data.source == "latents" and info.latent_shape and info.text_shape:
        found = (info.latent_shape[-1], *info.text_shape)
        needed = (data.channels, data.text_length, data.text_dim)
        names = ("channels", "text_length", "text_dim")
        for name, there, here in zip(names, found, needed, strict=True):
            if there != here:
                wanted[name] = f"config.data.{name} is {here}, that of the dataset {there}"
    return [f"{dataset.path}: {problem}" for problem in wanted.values() if problem]


def _scaling_misfits(datasets: Sequence[EncodedDataset], config: Config) -> list[str]:
    """Each dataset whose latents another VAE's factor belongs to than the first weights'."""
    if config.data.source != "latents" or not config.first_weights:
        return []
    needed = find_scaling_factor(named_place(config.first_weights))
    return [
        f"{dataset.path}: was encoded with the scaling factor {dataset.info.scaling_factor}, that "
        f"of {config.first_weights_field} {config.first_weights} is {needed}; encode the videos "
        "with that model"
        for dataset in datasets
        if needed is not None and dataset.info.scaling_factor not in (None, needed)
    ]


def _patch_misfit(info: EncodedInfo, config: Config) -> str:
    """Empty if the scenes divide into patches."""
    model = config.model
    frames, height, width = (info.latent_shape or (info.frames, info.height, info.width))[:3]
    patch = (model.patch_size_t, model.patch_size, model.patch_size)
    if any(size % part for size, part in zip((frames, height, width), patch, strict=True)):
        return f"scenes of {frames}x{height}x{width} do not divide into patches of {patch}"
    return ""
