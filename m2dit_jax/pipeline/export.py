"""The weights of a training run as a model folder, for diffusers and for other runs.

A run on latents has trained the transformer of a released model, its base: the folder gets that
transformer, with a config.json, and the base's other networks, tokenizer and scheduler. A run with
a text encoder of its own is like nothing that diffusers has, and gets a folder of our own kind:

    m2dit.json   format (1), checkpoint, step, weights (ema or params), and the run's whole config,
                 which says how the networks, the tokenizer and the noise schedule are made
    params/      an Orbax checkpoint: a dictionary with the parameters of `transformer` and
                 `text_encoder`, named and laid out as in the modules here

The first kind has m2dit.json too, without params/. Of it are read what diffusers has no names for:
the attention mask, and the defaults of sampling.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from m2dit_jax.config.recipe import (
    Recipe,
    build_recipe,
    make_transformer_config,
    without_adapters,
)
from m2dit_jax.config.schema import Config
from m2dit_jax.pipeline.load import base_model, check_encoded_with
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.conversion import (
    DTYPES,
    ConversionPlan,
    Job,
    check_output,
    check_place,
    make_jobs,
    with_lora,
)
from m2dit_jax.weights.lazy import Leaf, Tensor, layered
from m2dit_jax.weights.lora_files import NAMES, LoraChoice, lora_digest, write_lora
from m2dit_jax.weights.mapping import check_shapes, expected_parts, flatten
from m2dit_jax.weights.model_folder import Component, find_components
from m2dit_jax.weights.networks import read_config, read_json, torch_parts
from m2dit_jax.weights.released import ReleasedModel
from m2dit_jax.weights.run_folder import RECORD, TrainedWeights, record_text

_SCHEDULER = "scheduler/scheduler_config.json"


def make_export_plan(
    source: Path,
    output: Path,
    to: str | None = None,
    dtype: str | None = None,
    base: Path | None = None,
    weights: str | None = None,
    lora: Sequence[LoraChoice] = (),
) -> ConversionPlan:
    """A conversion of a run, the folder of a step in it, or a converted run of our own kind.

    `to` is "diffusers" (the default of runs on latents) or "orbax", `dtype` a key of
    conversion.DTYPES, None keeps each network's. `base` is the model folder whose transformer was
    trained, by default the one that training started from. `lora` are files of adapters that are
    added to the transformer. `weights` is "ema" or "params", by
    default the average where one was kept.

    Raises ValueError for what is missing or does not fit; no weights have been read then.
    """
    found = find_weights(source, weights)
    recipe = build_recipe(without_adapters(Config.from_dict(found.config, found.place)))
    check_place(output, source)
    record = {RECORD: record_text(found)}
    if recipe.config.data.source != "latents":
        for flag, value in (
            ("--to=diffusers", to == "diffusers"),
            ("--base", base is not None),
            ("--lora", bool(lora)),
        ):
            if value:
                raise ValueError(
                    f"{source}: {flag} is for runs on latents; this model has a text encoder of "
                    "its own, which diffusers knows no pipeline for"
                )
        job = _own_job(found, recipe, dtype)
        return check_output(ConversionPlan(source, output, "orbax", dtype, (job,), record))
    folder = base_model(source, recipe.config, base)
    check_place(output, folder)
    check_encoded_with(source, recipe.config, ReleasedModel(folder))
    others = make_jobs(
        (part for part in find_components(folder) if part.name != recipe.config.transformer_folder),
        dtype,
    )
    jobs = (_transformer_job(found, recipe, folder, dtype), *others)
    jobs = with_lora(jobs, lora, source)
    scheduler = read_json(folder / _SCHEDULER)
    changed = recipe.family.schedule_json(recipe.schedule, scheduler)
    if changed != scheduler:
        record[_SCHEDULER] = _text(changed)
    plan = ConversionPlan(folder, output, to or "diffusers", dtype, jobs, record)
    return check_output(replace(plan, adapters=" ".join(lora_digest(each) for each in lora)))


def export_lora(source: Path, output: Path, weights: str | None = None) -> Path:
    """Writes the adapters that a run trained as a file that diffusers loads, and returns its path.

    Raises ValueError for a run that trained none, and if the file is there.
    """
    found = run_folder.find_weights(source, weights)
    config = Config.from_dict(found.config, found.place)
    if not config.train.lora.rank:
        raise ValueError(f"{source}: trained no adapters (config.train.lora); --to=lora needs some")
    network = build_recipe(without_adapters(config)).family.transformer
    shapes = network.shapes(make_transformer_config(without_adapters(config)))[1]
    target = output / NAMES[0]
    if target.exists():
        raise ValueError(f"{target}: exists; needs a folder without it")
    output.mkdir(parents=True, exist_ok=True)
    adapters = found.load()["transformer"]
    write_lora(target, adapters, config.train.lora.scale, expected_parts(network.rules, shapes, ()))
    return target


def _transformer_job(found: TrainedWeights, recipe: Recipe, base: Path, dtype: str | None) -> Job:
    name, network = recipe.config.transformer_folder, recipe.family.transformer
    directory = base / name
    theirs = read_config(directory)
    frames, height, width, _ = recipe.latent_shape()
    config = make_transformer_config(recipe.config)
    try:
        ours = recipe.family.transformer_json(config, theirs, frames, height, width)
    except ValueError as error:
        raise ValueError(f"{found.place}: {error}") from error
    abstract = network.abstract(ours)
    parts = torch_parts(network, ours, abstract)
    tensors = _tensors(found, {"transformer": abstract})
    stacked = {part.leaf for part in parts.values() if part.layer is not None}
    leaves = layered(
        {name.removeprefix("transformer."): tensors[name] for name in tensors}, stacked
    )
    return Job(
        Component(name, directory, network),
        _cast(leaves, dtype),
        parts,
        found.arrays,
        plain=directory,
        texts={} if ours == theirs else {"config.json": _text(ours)},
    )


def _own_job(found: TrainedWeights, recipe: Recipe, dtype: str | None) -> Job:
    abstract = jax.eval_shape(recipe.init_params, jax.random.key(0))
    leaves = layered(_tensors(found, abstract), ())
    return Job(
        Component("", found.place, recipe.family.transformer),
        _cast(leaves, dtype),
        {},
        found.arrays,
    )


def _tensors(found: TrainedWeights, abstract: Any) -> dict[str, Tensor]:
    """The weights of these networks by dotted name. Raises ValueError for others than these."""
    tensors = found.tensors()
    needed = {name: like.shape for name, like in flatten(abstract).items()}
    try:
        check_shapes({name: tensor.shape for name, tensor in tensors.items()}, needed)
    except ValueError as error:
        raise ValueError(f"{found.place}: {error}") from error
    return tensors


def _cast(leaves: dict[str, Leaf], dtype: str | None) -> dict[str, Leaf]:
    target = None if dtype is None else DTYPES[dtype]
    return {name: leaf.cast(target) for name, leaf in leaves.items()}


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
