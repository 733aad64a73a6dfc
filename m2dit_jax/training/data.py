"""What a run trains on: batches from any step on, their shapes, and the empty prompt."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.config.schema import Config, DataConfig
from m2dit_jax.data.encoded import EncodedDataset, EncodedInfo
from m2dit_jax.data.loader import EncodedSamples, SampleAt, make_loader, shapes_samples
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.utils.machine import raise_open_files_limit
from m2dit_jax.weights.latent_scale import find_scaling_factor

TRAINING_STORIES = 10_000_000  # of shapes; then they come round again


@dataclass(frozen=True)
class TrainingData:
    """The data of a run; which batch a step gets depends on seed and step alone.

    `batch_shapes` has one entry for each size that batches have; `latent_scale` is what the VAE's
    latents are multiplied by (1 for pixels).
    """

    batches: Callable[[int, Sequence[int]], Iterator[Any]]
    """The given rows of all batches from a number on."""
    batch_shapes: tuple[Any, ...]
    empty_prompt: Int[np.ndarray, " T"] | Float[Array, "T E"]
    latent_scale: float
    datasets: tuple[EncodedDataset, ...]
    """Empty for shapes."""


def open_training_data(recipe: Recipe) -> TrainingData:
    """The data of `config.data`. Raises ValueError if they are missing or do not fit the model."""
    config = recipe.config
    data, stories = config.data, config.train.batch_size
    if data.source == "shapes":
        source = ShapesSource(
            config.seed, data.scenes, data.frames, data.size, False, TRAINING_STORIES
        )
        # The first scene's caption names the actor, so that none is longer.
        recipe.tokenize(source[0]["captions"])
        return _training_data(
            recipe, shapes_samples(source, recipe.tokenize, stories), (), [(0, 0)]
        )
    raise_open_files_limit()
    datasets = tuple(EncodedDataset(Path(path)) for path in _paths(data))
    problems = [line for dataset in datasets for line in _misfits(dataset, config)]
    if len({dataset.info.scaling_factor for dataset in datasets}) > 1:
        problems.append("the datasets were encoded with VAEs of different scaling factors")
    problems += _scaling_misfits(datasets, config)
    if problems:
        raise ValueError("\n".join(problems))
    samples = EncodedSamples(
        datasets,
        data.scenes,
        stories,
        config.seed,
        [float(weight) for weight in data.weights] or None,
        recipe.tokenize if data.source == "pixels" else None,
    )
    first_of_each = [samples.mixture.first_batch(number) for number in range(len(datasets))]
    return _training_data(recipe, samples, datasets, [(batch, 0) for batch in first_of_each])


def _training_data(
    recipe: Recipe,
    sample_at: SampleAt,
    datasets: tuple[EncodedDataset, ...],
    examples: list[tuple[int, int]],
) -> TrainingData:
    stories = recipe.config.train.batch_size
    shapes = {
        jax.tree.map(lambda x: jax.ShapeDtypeStruct((stories, *x.shape), x.dtype), sample_at(*at))
        for at in examples
    }
    scaling = {dataset.info.scaling_factor for dataset in datasets}
    latents = recipe.config.data.source == "latents"
    return TrainingData(
        batches=lambda first, rows: make_loader(sample_at, rows, first),
        batch_shapes=tuple(shapes),
        empty_prompt=(
            jnp.asarray(datasets[0].empty_caption) if latents else recipe.tokenize([""])[0]
        ),
        latent_scale=float(scaling.pop() or 1.0) if latents else 1.0,
        datasets=datasets,
    )


def _paths(data: DataConfig) -> list[str]:
    paths = [path.strip() for path in data.paths.split(",") if path.strip()]
    if not paths:
        raise ValueError(
            f"config.data.paths is empty; with config.data.source {data.source!r} it names the "
            "folders that python -m m2dit_jax.encode wrote"
        )
    return paths


def _misfits(dataset: EncodedDataset, config: Config) -> list[str]:
    """Each property of a dataset that is not as the config says."""
    data, info = config.data, dataset.info
    codec = {"pixels": "pixels", "latents": "vae"}[data.source]
    if info.codec != codec:
        return [
            f"{dataset.path}: was encoded with the codec {info.codec}, config.data.source "
            f"{data.source!r} needs {codec}"
        ]
    wanted = {"patch": _patch_misfit(info, config)}
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
    if config.data.source != "latents" or not config.train.init_from:
        return []
    needed = find_scaling_factor(Path(config.train.init_from))
    return [
        f"{dataset.path}: was encoded with the scaling factor {dataset.info.scaling_factor}, that "
        f"of config.train.init_from {config.train.init_from} is {needed}; encode the videos with "
        "that model"
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
