"""From a path to a pipeline: the one place that knows a training run from a model folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from m2dit_jax.config.recipe import (
    Recipe,
    build_recipe,
    make_transformer_config,
    without_adapters,
)
from m2dit_jax.config.schema import Config
from m2dit_jax.data.encoded import EncodedDataset, dataset_folders
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.family import EXPERTS, SECOND, NetworkSpec, with_chunks
from m2dit_jax.models.masks import MASKS
from m2dit_jax.models.network import LoadedNetwork, Params
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.models.quantized import FORMS, cast_floats
from m2dit_jax.parallel.context import placement_on, target_of
from m2dit_jax.parallel.mesh import story_mesh, story_mesh_line
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.pipeline.adapters import NO_ADAPTERS, Adapters, SceneAdapters
from m2dit_jax.pipeline.codecs import DECODERS, PixelCodec, VaeCodec
from m2dit_jax.pipeline.device_plan import on_host_cpu, plan_memory
from m2dit_jax.pipeline.engine import ModelFacts, TrainedRun, no_oracle
from m2dit_jax.pipeline.memory import MEMORY, Memory, NetworkSet, Say, quiet
from m2dit_jax.pipeline.memory_plan import MemoryPlan, goes_in_chunks
from m2dit_jax.pipeline.pipeline import Pipeline
from m2dit_jax.pipeline.prompts import PromptTokenizer
from m2dit_jax.pipeline.run_networks import SplitModel, sampled_config
from m2dit_jax.pipeline.streaming import StreamedNetwork
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.fingerprint import content_fingerprint, fingerprint
from m2dit_jax.weights.latent_scale import find_scaling_factor
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.lora_files import to_both_line
from m2dit_jax.weights.mapping import expected_parts
from m2dit_jax.weights.model_folder import unused_line
from m2dit_jax.weights.networks import load_tensors, read_config
from m2dit_jax.weights.released import DTYPES, Precision, ReleasedModel, default_dtype
from m2dit_jax.weights.run_folder import RECORD, CheckpointError, TrainedWeights, read_record

_LONGEST_CHAIN = 100  # of runs that started from one another; more are a circle
_PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler", SECOND)
# Fields of a transformer with the same results.
_OF_COMPUTING = ("attention", "scan", "remat")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    path: Path | str,
    *,
    dtype: str | None = None,
    memory: Memory = "auto",
    mesh: Mesh | int | None = None,
    decoder: str | None = None,
    model: Path | str | None = None,
    lora: Sequence[str] = (),
    quantize: str | None = None,
    mask: str | None = None,
    say: Say = quiet,
) -> Pipeline:
    """A pipeline of a training run, a model folder (diffusers or Orbax), or a name of the Hub.

    A run is its workdir, the folder of one step in it, or what `m2dit convert` has written of it.

    Configs are read and checked at once, with the headers of all weights; these are read when they
    are first needed. `dtype` is that of
    every network: "float32" or "bfloat16", by default bfloat16 on accelerators and float32 on CPUs.
    `memory`: "resident" keeps all networks on the devices, "offload" one at a time, "stream" also
    has the transformer's blocks in host memory, each on the device for its turn; "auto" takes the
    quickest of them that fits the device, and says which and what it takes. `mesh` is that on which
    the transformer is sharded, or over how many devices, by default as many as its heads are shared
    well by (`parallel.mesh.story_mesh`); runs on pixels are sampled on one. `decoder` says how a
    VAE decodes: "whole", "strips" or "tiles", by default whole where the device's memory is enough,
    else in strips. `model` is, for a run on latents, the folder of the model that its videos were
    encoded with, by default the one that its training started from. `lora` are files of adapters,
    FILE or FILE:WEIGHT, that are added to the transformer in the order given. `quantize` keeps the
    linear layers of transformer and text encoder in 8 bits: "int8", "fp8", or "int8_w8a8", which
    multiplies int8 too; they are rounded when they are read, whatever the files hold. `mask` is,
    for a model folder, another attention mask than its own, one of `masks.MASKS`. `say` gets a line
    now and then.

    Raises ValueError, naming the path, for what is neither, and for configs that cannot be.
    """
    _check_choice("dtype", dtype, (None, *DTYPES))
    _check_choice("memory", memory, MEMORY)
    _check_choice("decoder", decoder, (None, *DECODERS))
    _check_choice("quantize", quantize, (None, *FORMS))
    _check_choice("mask", mask, (None, *MASKS))
    precision = Precision(dtype or default_dtype(), quantize)
    path = _local(Path(path).expanduser())
    if is_model_folder(path):
        if model is not None:
            raise ValueError(
                f"model={str(model)!r}: only for a run on latents, {path} is a model folder"
            )
        return _of_folder(ReleasedModel(path), precision, memory, mesh, decoder, lora, mask, say)
    if mask is not None:
        raise ValueError(f"mask={mask!r}: only for a model folder, {path} learnt with its own")
    found = find_weights(path)
    config = without_adapters(Config.from_dict(found.config, found.place))
    if config.data.source == "latents":
        folder = ReleasedModel(base_model(path, config, model))
        return _of_latents_run(path, found, folder, precision, memory, mesh, decoder, lora, say)
    only_with_vae = {"model": model, "decoder": decoder, "mesh": mesh}
    only_with_vae["memory"] = "stream" if memory == "stream" else None
    for name, value in only_with_vae.items():
        if value is not None:
            raise ValueError(f"{name}={str(value)!r}: only for models with a VAE, {path} has none")
    _say_target(Target.here(), say)
    recipe = build_recipe(config)
    adapters = _run_adapters(lora, recipe, say)
    return of_pixels_run(
        recipe,
        found.load,
        found.step,
        dtype=precision.dtype,
        quantize=quantize,
        memory=memory,
        fingerprint=lambda: f"{found.fingerprint()}{_suffix(precision)}{adapters.fingerprint}",
        content=found.content_fingerprint,
        provenance=_run_provenance(path, found, precision) | adapters.provenance,
        adapters=adapters,
        say=say,
    )


def is_model_folder(path: Path) -> bool:
    """Whether a folder looks like a model folder, as it is or converted."""
    return (path / "model_index.json").exists() or (path / "transformer").is_dir()


def base_model(path: Path, config: Config, given: Path | str | None = None) -> Path:
    """The model folder with the VAE and text encoder of a run on latents, whose config this is.

    By default it is the one that training started from, or, where that was another run, the one
    that the other started from. Raises ValueError if that ends nowhere.
    """
    if given is not None:
        return named_place(str(given))
    chain = [path]
    while start := config.first_weights:
        chain.append(named_place(start))
        if is_model_folder(chain[-1]) or len(chain) > _LONGEST_CHAIN:
            return chain[-1]
        config = Config.from_dict(find_weights(chain[-1]).config, chain[-1])
    raise ValueError(
        f"{chain[-1]}: config.train.init_from is empty; needs --model, the folder of the model "
        "that the run's videos were encoded with"
    )


def of_pixels_run(
    recipe: Recipe,
    params: Callable[[], Params],
    step: int,
    *,
    dtype: str | None = None,
    quantize: str | None = None,
    memory: Memory = "auto",
    fingerprint: Callable[[], str] = lambda: "",
    content: Callable[[], str | None] = lambda: None,
    provenance: dict[str, Any] | None = None,
    adapters: Adapters = NO_ADAPTERS,
    say: Say = quiet,
) -> Pipeline:
    """A pipeline of a run on pixels whose averaged weights `params` reads or has.

    Training samples its previews with it, so that they show what `load` will show of the run.
    """
    config = recipe.config
    networks = SplitModel(recipe, params, Precision(dtype or default_dtype(), quantize))
    world = recipe.world
    checks = ("finite", "frozen", "cut", "oracle" if world else "saturation")
    facts = ModelFacts(
        schedule=recipe.schedule,
        defaults=run_defaults(recipe),
        source="config.sample",
        mask=config.model.mask,
        default_checks=checks,
        fingerprint=fingerprint,
        content=content,
        provenance=provenance or {},
        oracle=world.misfits if world else no_oracle,
        global_text=recipe.has_global_text,
        pictures=bool(config.train.image_probability),
        adapters=partial(_scene_adapters, recipe),
        adapts_scenes=recipe.family.adapts_scenes,
        trained=TrainedRun(recipe, step),
    )
    assert recipe.tokenizer is not None  # runs on pixels have one
    prompts = PromptTokenizer(recipe.tokenizer, config.data.text_length, world is not None, "bytes")
    return Pipeline(
        facts,
        prompts,
        NetworkSet(
            {
                "text encoder": networks.text_encoder,
                "transformer": adapters.added_to(networks.transformer),
            },
            memory not in ("turns", "offload"),
            say,
        ),
        PixelCodec(partial(_check_trained_size, recipe), patch=config.model.patch_size_t),
        lambda: ONE_DEVICE,
    )


def run_defaults(recipe: Recipe) -> StoryOptions:
    """Settings of a story that a model trained here has: those of `config.sample` and its data."""
    frames, height, width = recipe.scene_size()
    config = recipe.config
    return StoryOptions(
        **run_options(recipe).given_values(),
        frames=frames,
        height=height,
        width=width,
        fps=config.sample.fps,
        window=config.data.scenes,
        new_scenes=1,
        anchor=config.data.scenes > 2,
    )


def run_options(recipe: Recipe) -> SamplingOptions:
    """Sampling options of a model trained here, without a storyboard: those of `config.sample`."""
    chosen = asdict(recipe.config.sample)
    del chosen["fps"]
    if chosen["spacing"] == recipe.schedule.spacing:
        del chosen["spacing"]
    return SamplingOptions(**chosen)


def _of_folder(
    folder: ReleasedModel,
    precision: Precision,
    memory: Memory,
    mesh: Mesh | int | None,
    decoder: str | None,
    lora: Sequence[str],
    mask: str | None,
    say: Say,
) -> Pipeline:
    defaults, source = None, folder.path / "transformer/config.json"
    if (folder.path / RECORD).is_file():  # converted from a run: what no other file of it says
        trained = build_recipe(
            Config.from_dict(read_record(folder.path)["config"], folder.path / RECORD)
        )
        ours, choices = make_transformer_config(trained.config), folder.family.weightless
        kept = {name: getattr(ours, name) for name in choices if name not in _OF_COMPUTING}
        folder.transformer_config = replace(folder.transformer_config, **kept)
        defaults, source = _folder_run_defaults(trained, folder), folder.path / RECORD
    changed = ""
    if mask not in (None, folder.transformer_config.mask):
        folder.transformer_config = replace(folder.transformer_config, mask=mask)
        changed = f" mask {mask}"
    json = read_config(folder.path / "transformer")
    network = folder.family.transformer
    two = folder.has_second
    how = (network.abstract(json), network.window(json))
    adapters = _read_adapters(lora, network, *how, two, say)

    def scene_adapters() -> SceneAdapters:
        parts = expected_parts(network.rules, *how)
        return SceneAdapters(parts, two, folder.family.adapts_scenes)

    facts = ModelFacts(
        schedule=folder.schedule,
        defaults=defaults
        or StoryOptions(
            frames=folder.frames,
            height=folder.height,
            width=folder.width,
            sampler=folder.sampler,
            **{
                name: value
                for name, value in folder.sampling._asdict().items()
                if value not in ("", None)
            },
            new_scenes=1,
            anchor=True,
        ),
        source=str(source),
        mask=folder.transformer_config.mask,
        default_checks=("finite", "frozen", "cut", "saturation"),
        clean_first_frame=folder.clean_first_frame,
        fingerprint=lambda: (
            f"{_folder_fingerprint(folder, precision)}{changed}{adapters.fingerprint}"
        ),
        content=lambda: _folder_content(folder),
        provenance=_folder_provenance(folder, precision, decoder) | adapters.provenance,
        adapters=scene_adapters,
        adapts_scenes=folder.family.adapts_scenes,
    )
    _check_folder(folder, folder.network_names, say)
    mesh = _story_mesh(mesh, folder.transformer_config.heads, say)

    names = [name for name in folder.network_names if name in EXPERTS.values()]
    loaders = {name: _folder_transformer(folder, name, precision, mesh) for name in names}
    return _with_vae(facts, folder, loaders, adapters, precision, memory, mesh, decoder, say)


def _of_latents_run(
    path: Path,
    found: TrainedWeights,
    folder: ReleasedModel,
    precision: Precision,
    memory: Memory,
    mesh: Mesh | int | None,
    decoder: str | None,
    lora: Sequence[str],
    say: Say,
) -> Pipeline:
    """The run's transformer with the other networks of the folder."""
    config = without_adapters(Config.from_dict(found.config, found.place))
    recipe = build_recipe(sampled_config(config))
    check_encoded_with(path, recipe.config, folder)
    folder.transformer_config = make_transformer_config(recipe.config)
    own = recipe.config.transformer_folder
    other = [name for name in EXPERTS.values() if recipe.config.train.expert and name != own]
    adapters = _run_adapters(lora, recipe, say)
    facts = ModelFacts(
        schedule=recipe.schedule,
        defaults=_folder_run_defaults(recipe, folder),
        source="config.sample",
        mask=recipe.config.model.mask,
        clean_first_frame=folder.clean_first_frame,
        default_checks=("finite", "frozen", "cut", "saturation"),
        fingerprint=lambda: (
            f"{found.fingerprint()} {_folder_fingerprint(folder, precision)}{adapters.fingerprint}"
        ),
        content=lambda: f"{found.content_fingerprint()} {_folder_content(folder)}",
        provenance=_folder_provenance(folder, precision, decoder)
        | _run_provenance(path, found, precision)
        | adapters.provenance
        | {"model": str(folder.path.absolute())},
        adapters=partial(_scene_adapters, recipe),
        adapts_scenes=recipe.family.adapts_scenes,
        pictures=bool(recipe.config.train.image_probability),
        trained=TrainedRun(recipe, found.step),
    )
    _check_folder(folder, ("text_encoder", "vae", *other), say)
    mesh = _story_mesh(mesh, recipe.config.model.heads, say)

    def trained(on_host: bool, in_chunks: bool) -> LoadedNetwork:
        config, quantize = make_transformer_config(recipe.config), precision.quantize
        config = with_chunks(config) if in_chunks else config
        graphdef, abstract = recipe.family.transformer.shapes(config, quantize)
        if quantize is None and not on_host:
            params = cast_floats(found.load(mesh)["transformer"], DTYPES[precision.dtype])
            return LoadedNetwork(graphdef, params)
        placed = abstract if on_host else with_shardings(abstract, mesh)
        how = (DTYPES[precision.dtype], quantize, on_host)
        tensors = _tensors_of(found, "transformer")
        return LoadedNetwork(graphdef, load_tensors(found.place, tensors, placed, *how))

    loaders = {name: _folder_transformer(folder, name, precision, mesh) for name in other}
    loaders[own] = trained
    return _with_vae(facts, folder, loaders, adapters, precision, memory, mesh, decoder, say)


def _folder_transformer(
    folder: ReleasedModel, name: str, precision: Precision, mesh: Mesh
) -> Callable[[bool, bool], LoadedNetwork]:
    """Loads the transformer in a folder's folder of that name, as `_with_vae` asks."""

    def transformer(on_host: bool, in_chunks: bool) -> LoadedNetwork:
        placed = None if on_host else mesh
        dtype, quantize = precision.dtype, precision.quantize
        how = {"quantize": quantize, "on_host": on_host, "in_chunks": in_chunks}
        return folder.transformer(dtype, mesh=placed, name=name, **how)

    return transformer


def _folder_run_defaults(recipe: Recipe, folder: ReleasedModel) -> StoryOptions:
    """The options of a run on latents; the scale of a second transformer is the folder's."""
    defaults, scale = run_defaults(recipe), folder.sampling.guidance_scale_2
    return defaults if scale is None else defaults.replace(guidance_scale_2=scale)


def _tensors_of(found: TrainedWeights, network: str) -> dict[str, Tensor]:
    """The arrays of one network of a run, by its own names."""
    start = f"{network}."
    tensors = found.tensors().items()
    return {name.removeprefix(start): each for name, each in tensors if name.startswith(start)}


def _run_adapters(lora: Sequence[str], recipe: Recipe, say: Say) -> Adapters:
    """LoRA files for the transformer of a run, and for the other one if it is of two."""
    network = recipe.family.transformer
    shapes = network.shapes(make_transformer_config(recipe.config))[1]
    return _read_adapters(lora, network, shapes, (), bool(recipe.config.train.expert), say)


def _read_adapters(
    lora: Sequence[str],
    network: NetworkSpec,
    shapes: Params,
    window: tuple[int, ...],
    two: bool,
    say: Say,
) -> Adapters:
    """LoRA files; says which are for both of two transformers."""
    adapters = Adapters.read(lora, network, shapes, window, two)
    if two and (line := to_both_line(adapters.choices)):
        say(line)
    return adapters


def _scene_adapters(recipe: Recipe) -> SceneAdapters:
    """Reads LoRA files of a storyboard for the transformer of a run."""
    network = recipe.family.transformer
    shapes = network.shapes(make_transformer_config(recipe.config))[1]
    parts = expected_parts(network.rules, shapes, ())
    two = bool(recipe.config.train.expert)
    return SceneAdapters(parts, two, recipe.family.adapts_scenes)


def _check_folder(folder: ReleasedModel, networks: Sequence[str], say: Say) -> None:
    """Checks the files of all networks before the first one is at work; names what is not used."""
    folder.check_weights(networks)
    if line := unused_line(folder.path):
        say(line)


def _with_vae(
    facts: ModelFacts,
    folder: ReleasedModel,
    transformers: Mapping[str, Callable[[bool, bool], LoadedNetwork]],
    adapters: Adapters,
    precision: Precision,
    memory: Memory,
    mesh: Mesh,
    decoder: str | None,
    say: Say,
) -> Pipeline:
    """The pipeline of a folder's VAE and text encoder with transformers.

    Each is loaded to host memory or not, with feed-forward in chunks or not.
    """
    if memory == "stream" and mesh.size > 1:
        raise ValueError(
            f"memory='stream': blocks come to one device, the mesh has {mesh.size}; needs mesh=1"
        )
    device = mesh.devices.flat[0]

    def load_transformer(name: str) -> LoadedNetwork | StreamedNetwork:
        plan = networks.plan
        on_host = plan.policy == "stream"
        in_chunks = goes_in_chunks(plan.in_turn, precision.quantize, mesh.size)
        load_it = partial(transformers[name], on_host, in_chunks)
        network = adapters.added_to(load_it, on_host, name)()
        return StreamedNetwork.of(network, device) if on_host else network

    def load_text_encoder() -> LoadedNetwork:
        load_it = partial(folder.text_encoder, precision.dtype, precision.quantize)
        return on_host_cpu(load_it) if networks.plan.text_on_host else load_it()

    networks = NetworkSet(
        {
            "text encoder": load_text_encoder,
            **{name: partial(load_transformer, name) for name in transformers},
            "VAE": partial(folder.vae, precision.dtype),
        },
        memory == "resident",
        say,
        partial(plan_memory, folder, precision, memory, mesh, say),
    )
    if memory == "stream":  # until the size of a story is known
        networks.plan = MemoryPlan("stream")
    placement: Placement = placement_on(mesh)
    return Pipeline(
        facts,
        PromptTokenizer(folder.tokenizer(), folder.text_length),
        networks,
        VaeCodec(folder.latent_shape, decoder, precision.dtype, folder.family.decode_in_strips),
        lambda: placement,
    )


def _story_mesh(mesh: Mesh | int | None, heads: int, say: Say) -> Mesh:
    """The mesh itself, or one over that many devices; says what it is if there is a choice."""
    available = len(jax.devices())
    if not isinstance(mesh, Mesh):
        mesh = story_mesh(heads, mesh)
    if available > 1:
        say(story_mesh_line(mesh, heads, available))
    _say_target(target_of(mesh), say)
    return mesh


def _say_target(target: Target, say: Say) -> None:
    if target.without_cudnn:
        say(target.without_cudnn)


def _suffix(precision: Precision) -> str:
    """Nothing for float32, in which runs were always sampled: their finished scenes stay valid."""
    return "" if precision == Precision("float32") else f" {precision}"


def _folder_fingerprint(folder: ReleasedModel, precision: Precision) -> str:
    return f"{fingerprint(folder.path, _PARTS)} {precision}"


def _folder_content(folder: ReleasedModel) -> str:
    return content_fingerprint(folder.path, _PARTS)


def _folder_provenance(
    folder: ReleasedModel, precision: Precision, decoder: str | None
) -> dict[str, Any]:
    return {
        "checkpoint": {"path": str(folder.path.absolute())},
        **_precision_provenance(precision),
        "decoder": decoder or "whole or strips",
        "config": {
            "transformer": vars(folder.transformer_config),
            "schedule": vars(folder.schedule),
        },
    }


def _precision_provenance(precision: Precision) -> dict[str, Any]:
    quantize = {} if precision.quantize is None else {"quantize": precision.quantize}
    return {"dtype": precision.dtype, **quantize}


def _run_provenance(path: Path, found: TrainedWeights, precision: Precision) -> dict[str, Any]:
    return {
        "checkpoint": {"path": str(path.absolute()), "step": found.step},
        **_precision_provenance(precision),
        "config": Config.from_dict(found.config, found.place).to_dict(),
    }


def check_encoded_with(workdir: Path, config: Config, folder: ReleasedModel) -> None:
    """Raises ValueError if the run's videos were encoded with another model."""
    data = config.data
    fits = {
        "channels": (data.channels, folder.vae_config.latent_channels),
        "latent_side": (data.latent_side, folder.vae_config.spatial_compression),
        "text_dim": (data.text_dim, folder.text_encoder_config.d_model),
        "text_length": (data.text_length, folder.text_length),
    }
    for name, (trained, there) in fits.items():
        if trained != there:
            raise ValueError(
                f"config.data.{name} of {workdir} is {trained}, that of {folder.path} {there}: the "
                "videos were encoded with another model"
            )
    boundary = config.diffusion.boundary
    if boundary != folder.schedule.boundary:
        raise ValueError(
            f"config.diffusion.boundary of {workdir} is {boundary:g}, that of {folder.path} "
            f"{folder.schedule.boundary:g} (0: one transformer); needs a model as it was trained"
        )
    trained, there = _trained_scaling_factor(workdir, config), folder.vae_config.scaling_factor
    if trained not in (None, there):
        raise ValueError(
            f"{workdir} learnt from latents with the scaling factor {trained}, that of "
            f"{folder.path} is {there}; needs the model that its videos were encoded with"
        )


def _trained_scaling_factor(workdir: Path, config: Config) -> float | None:
    """The factor that the run kept, or that of its data: older versions kept none."""
    kept = find_scaling_factor(workdir)
    if kept is not None:
        return kept
    with suppress(ValueError, OSError):
        for folder in dataset_folders(config.data.paths):
            return EncodedDataset(folder).info.scaling_factor
    return None


def _check_trained_size(recipe: Recipe, frames: int, height: int, width: int) -> None:
    """Raises ValueError for another picture than in training, or frames that are no patches.

    Scenes of other lengths are possible, and as good as positions never trained can be.
    """
    trained = recipe.scene_size()
    patch = recipe.config.model.patch_size_t
    if (height, width) != trained[1:] or frames % patch:
        raise ValueError(
            f"{frames} frames of {height}x{width} cannot be: this model was trained with "
            f"{trained[0]} frames of {trained[1]}x{trained[2]}"
            + (f", and other frames must be multiples of {patch}" if patch > 1 else "")
        )


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices if choice is not None)
        raise ValueError(f"{name}={value!r}: needs one of {known}")


def _local(path: Path) -> Path:
    """The path itself, or where the Hub's cache has the repository of that name.

    Raises ValueError if a name of the Hub is neither cached nor to be fetched, CheckpointError if
    nothing is there and it cannot be such a name.
    """
    if path.exists() or not _HUB_NAME.fullmatch(str(path)):
        return path
    from huggingface_hub import snapshot_download

    name = str(path)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not in the cache: fetched, if there is a network
        pass
    try:
        return Path(snapshot_download(name))
    except Exception as error:  # of many kinds
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{path}: no such folder, and no repository of that name in the Hub's cache or to be "
            f"fetched ({reason}); needs a training run's workdir or a model folder"
        ) from error
