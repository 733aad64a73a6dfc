"""What a family of models consists of; each has a folder here and one instance of `Family`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.samplers import Sampler
from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.key_rules import Rule
from m2dit_jax.models.linear import quantize_layers
from m2dit_jax.models.placement import ONE_DEVICE, Placement

Json = Mapping[str, Any]
SECOND = "transformer_2"  # the folder of a second transformer, that of the steps of little noise
# Of two transformers that share a run's steps, which is in which folder.
EXPERTS = {"high_noise": "transformer", "low_noise": SECOND}
# A VAE and latents to the video on the host, chunk by chunk, with little memory on the device.
DecodeInStrips = Callable[[Any, Any], Iterator[Any]]
# Tokens: enough for products of matrices to be efficient.
FEED_FORWARD_CHUNK = 8192


@dataclass(frozen=True)
class NetworkSpec:
    """One network of a family: how its config is read, it is made, and its weights are named.

    `config` turns the contents of config.json into the dataclass that `make` takes, and raises
    ValueError for a variant that does not exist here. PyTorch's class ends in `class_name`, the
    names of its files begin with `stem`. `window` is the shape of the convolutions that are linear
    layers here ("patch" in `rules`), empty if they are linear layers in PyTorch too.
    """

    class_name: str
    stem: str
    config: Callable[[Json], Any]
    make: Callable[..., nnx.Module]
    rules: tuple[Rule, ...]
    window: Callable[[Json], tuple[int, ...]]

    def abstract(self, json: Json) -> Any:
        """Shapes of the parameters of the network that a config.json describes, nested dicts.

        Raises ValueError for a network that does not exist here.
        """
        return self.shapes(self.config(json))[1]

    def shapes(self, config: Any, quantize: str | None = None) -> tuple[Any, Any]:
        """The graph of the network that `config` describes, and the shapes of its parameters.

        `quantize` is one of `quantized.FORMS`, None for a network of floats.
        """
        return _shapes(self.make, config, quantize)


@lru_cache(16)
def _shapes(make: Callable[..., nnx.Module], config: Any, quantize: str | None) -> tuple[Any, Any]:
    """Kept, since tracing a VAE takes 3 s: its files are checked before it is loaded."""

    def model() -> nnx.Module:
        made = make(config, rngs=nnx.Rngs(0))
        return made if quantize is None else quantize_layers(made, quantize)

    graphdef, state = nnx.split(nnx.eval_shape(model))
    return graphdef, nnx.to_pure_dict(state)


def with_chunks(config: Any) -> Any:
    """The transformer's config with feed-forward in chunks of tokens, if the family has these."""
    if not hasattr(config, "feed_forward_chunk"):
        return config
    return replace(config, feed_forward_chunk=FEED_FORWARD_CHUNK)


def split_expert(text: str) -> tuple[str | None, str]:
    """The expert that EXPERT=FILE begins with, None without one, and the file."""
    expert, equals, file = text.partition("=")
    return (expert, file) if equals and expert in EXPERTS else (None, text)


class SceneSize(NamedTuple):
    """The default size of a scene: text tokens, frames and pixels."""

    text_length: int
    frames: int
    height: int
    width: int


class SamplingDefaults(NamedTuple):
    """The settings of the reference's scripts; `window` scenes are denoised together."""

    fps: float
    steps: int
    guidance_scale: float
    window: int
    negative_prompt: str = ""
    guidance_scale_2: float | None = None


class LatentShape(NamedTuple):
    """Latent frames, rows, columns and channels of a scene."""

    frames: int
    height: int
    width: int
    channels: int


@runtime_checkable
class CachesGiven(Protocol):
    """A network that can compute the keys and values of given scenes once (causal mask)."""

    def cache_given(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> KeyValues: ...

    def predict_cached(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        timesteps: Num[Array, "B G"],
        cached: KeyValues,
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> Float[Array, "B G F H W C"]: ...


@runtime_checkable
class RunsByBlocks(Protocol):
    """A network that can be run block by block, so that not all blocks need be on the device.

    Its parameters of `blocks` are stacked along the blocks; to run it so, it has those of one.
    """

    block_masks: tuple[str, ...]

    def begin(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Num[Array, "B S"],
        given: Bool[Array, "B S"] | None = None,
        placement: Placement = ONE_DEVICE,
        frames: tuple[int, ...] | None = None,
    ) -> tuple[Float[Array, "B L D"], Any]:
        """The tokens of the first block, and a pytree of what all blocks see beside them."""
        ...

    def run_layer(
        self, mask: str, tokens: Float[Array, "B L D"], embedded: Any, placement: Placement
    ) -> Float[Array, "B L D"]: ...

    def end(
        self, tokens: Float[Array, "B L D"], embedded: Any, placement: Placement
    ) -> Float[Array, "B S F H W C"]: ...


@dataclass(frozen=True)
class Family:
    """All that is particular to the models of a family.

    `schedule` and `sampler` read scheduler_config.json; `scene_size` and `sampling` read the
    transformer's config.json beside the VAE's config, `sampling` also whether there is a second
    transformer (`has_second` says whether there may be one). `latent_shape` takes the configs of
    transformer and VAE, and the frames, height and width of a scene; it rounds frames up, and
    raises ValueError, with the nearest sizes that work, for a scene that the model cannot make.
    `check_fit` takes the configs of transformer, text encoder and VAE, and raises ValueError if
    they do not belong together. `tokenizer` is a class of transformers. `transformer_json` and
    `schedule_json` are the inverses of reading, on top of the JSON of a base. `story_model` makes
    what a run trains, from configs of text encoder (None: prompts come encoded) and transformer,
    which `transformer_config` and `text_encoder_config` make of their fields; they raise
    ValueError for fields that mean nothing in the family.
    """

    name: str
    transformer: NetworkSpec
    vae: NetworkSpec
    text_encoder: NetworkSpec
    tokenizer: str
    schedule: Callable[[Json], Schedule]
    sampler: Callable[[Json], Sampler]
    scene_size: Callable[[Json, Any], SceneSize]
    latent_shape: Callable[[Any, Any, int, int, int], LatentShape]
    check_fit: Callable[[Any, Any, Any], None]
    sampling: Callable[[Json, Any, bool], SamplingDefaults]
    transformer_config: Callable[..., Any]
    text_encoder_config: Callable[..., Any]
    story_model: Callable[..., nnx.Module]
    transformer_json: Callable[[Any, Json, int, int, int], dict[str, Any]]
    schedule_json: Callable[[Schedule, Json], dict[str, Any]]
    decode_in_strips: DecodeInStrips
    weightless: tuple[str, ...]
    """Fields of the transformer's config that change nothing about its weights."""
    has_second: bool = False
    adapts_scenes: bool = True
    """Whether single scenes can have adapters of their own (`scene_lora`)."""
    first_frame_field: str = ""
    """The field of model_index.json that is true of models trained with a clean first frame."""

    def network(self, folder: str) -> NetworkSpec:
        """The network in a folder of that name. Raises ValueError if the family has none there."""
        if folder == SECOND and self.has_second:
            return self.transformer
        if folder not in self.networks:
            raise ValueError(f"{folder}: models of the family {self.name} have one transformer")
        return self.networks[folder]

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """The networks by the names of their folders."""
        return {
            "transformer": self.transformer,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
        }


def size_problems(frames: int, height: int, width: int, unit: int) -> list[str]:
    """Lists what is wrong with a scene's size, pixels being in units, and the nearest that work."""
    problems = []
    for name, value in (("height", height), ("width", width)):
        if value < 1 or value % unit:
            below = max(value // unit, 1) * unit
            near = f"the nearest are {below} and {below + unit}"
            problems.append(f"{name} {value} is not a multiple of {unit}, {near}")
    if frames < 1:
        problems.append(f"{frames} frames are too few, needs 1 or more")
    return problems


def check_fit(transformer: Any, text_encoder: Any, vae: Any) -> None:
    """Raises ValueError if the networks, by their configs, do not fit each other."""
    pairs = {
        "text_embed_dim of transformer and d_model of text_encoder": (
            transformer.text_dim,
            text_encoder.d_model,
        ),
        "in_channels of transformer and latent_channels of vae": (
            transformer.channels,
            vae.latent_channels,
        ),
    }
    for what, (one, other) in pairs.items():
        if one != other:
            raise ValueError(f"{what} differ: {one} and {other}")
