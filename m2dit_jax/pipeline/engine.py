"""A model as sampling sees it: its facts, and the stages from prompts and clips to frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.sampling import Conditions, Latents, StepResult, noise_given
from m2dit_jax.models.coding import encode_prompts
from m2dit_jax.models.family import SECOND
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.placement import Placement
from m2dit_jax.pipeline.adapters import SceneAdapters
from m2dit_jax.pipeline.codecs import Codec
from m2dit_jax.pipeline.denoise import Frames, denoise, denoise_batch
from m2dit_jax.pipeline.experts import Experts, Transformer
from m2dit_jax.pipeline.memory import NetworkSet
from m2dit_jax.pipeline.memory_plan import StorySize
from m2dit_jax.pipeline.prompts import PromptTokenizer
from m2dit_jax.stories.noise import GIVEN, scene_noise, story_keys
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.utils.finite import check_finite

# (prompts of all scenes, global prompt, number of a scene, its frames) -> what it shows otherwise
Oracle = Callable[[Sequence[str], str, int, UInt8[np.ndarray, "F H W 3"]], list[str]]


def no_oracle(
    prompts: Sequence[str], global_prompt: str, scene: int, frames: UInt8[np.ndarray, "F H W 3"]
) -> list[str]:
    """No oracle exists for real video: always empty."""
    return []


@dataclass(frozen=True)
class TrainedRun:
    """The run that trained a pipeline's weights: its recipe and the step."""

    recipe: Recipe
    step: int


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model that need none of its weights.

    `source` says where the defaults are written, for messages. `default_checks` are those of the
    gate's checks that suit the model. `fingerprint` is a hash of the names, sizes and ends of the
    weights' files and of the dtype, part of every cache key. `content`, a hash of all their bytes,
    which takes a while, tells whether what lies under a key was made with them; None says nothing.
    `provenance` says in JSON where the weights came from. `oracle` says what a scene shows
    otherwise than its prompt asks. `global_text` says that the model has learnt with a global
    prompt in every story, so that a story without one needs the empty one; `pictures` that it has
    learnt with single pictures beside the scenes; `clean_first_frame` that it has learnt with a
    first latent frame that is clean, at timestep 0. `adapters` reads those of storyboards;
    `adapts_scenes` says that single scenes can have their own.
    """

    schedule: Schedule
    defaults: StoryOptions
    source: str
    mask: str
    default_checks: tuple[str, ...]
    fingerprint: Callable[[], str]
    provenance: Mapping[str, Any]
    oracle: Oracle = no_oracle
    global_text: bool = False
    pictures: bool = False
    clean_first_frame: bool = False
    adapters: Callable[[], SceneAdapters] | None = None
    adapts_scenes: bool = True
    trained: TrainedRun | None = None
    content: Callable[[], str | None] = lambda: None


class Samples(NamedTuple):
    """Stories of a batch, the latents that they were decoded from, and how much work they were."""

    video: UInt8[np.ndarray, "B S F H W 3"]
    latents: Float[np.ndarray, "B S f h w C"]
    evaluations: Int[np.ndarray, "steps B"]
    """Of the model, at each step: one for each branch of guidance that was evaluated."""


class Engine:
    """Tokenizer, text encoder, transformer, codec, schedule and defaults of one model.

    `StoryBuilder` takes a story through the stages scene by scene, `sample_many` a batch of stories
    at once; the same story and seed give the same frames from both.
    """

    def __init__(
        self,
        facts: ModelFacts,
        prompts: PromptTokenizer,
        networks: NetworkSet,
        codec: Codec,
        placement: Callable[[], Placement],
    ):
        self.facts = facts
        self.prompts = prompts
        self.networks = networks
        self.codec = codec
        self._placement = placement

    # --- what is known without weights

    @property
    def schedule(self) -> Schedule:
        """Noise schedule of the training."""
        return self.facts.schedule

    @property
    def defaults(self) -> StoryOptions:
        """Values of the settings that a storyboard leaves open."""
        return self.facts.defaults

    @property
    def source(self) -> str:
        """Place where the defaults are written, for messages."""
        return self.facts.source

    @property
    def mask(self) -> str:
        """Name of the attention mask, one of `masks.MASKS`."""
        return self.facts.mask

    @property
    def default_checks(self) -> tuple[str, ...]:
        """Checks of the gate that suit the model."""
        return self.facts.default_checks

    @property
    def learnt_pictures(self) -> bool:
        """Whether the model has learnt with single pictures beside a story's scenes."""
        return self.facts.pictures

    @property
    def adapts_scenes(self) -> bool:
        """Whether single scenes can have adapters of their own, and not the whole story alone."""
        return self.facts.adapts_scenes

    @property
    def learnt_first_frames(self) -> bool:
        """Whether the model has learnt to go on from a first frame, clean and at timestep 0."""
        return self.facts.clean_first_frame

    @property
    def trained(self) -> TrainedRun | None:
        """The run that the weights come from; None for a model folder."""
        return self.facts.trained

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights' files and of the dtype that they are used in; part of every key."""
        return self.facts.fingerprint()

    @cached_property
    def content(self) -> str | None:
        """Hash of all bytes of the weights' files, None if none is known; see `ModelFacts`."""
        return self.facts.content()

    @property
    def options(self) -> SamplingOptions:
        """Sampling options that a storyboard without settings has."""
        return self.defaults.sampling()

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError, with sizes that work, if the model cannot make such scenes."""
        self.codec.latent_shape(frames, height, width)

    def check_lora(self, choice: str) -> str:
        """Hash and weight of a file of adapters. Raises ValueError if it does not fit the model."""
        return self._scene_adapters.check(choice)

    @property
    def _scene_adapters(self) -> SceneAdapters:
        if self.facts.adapters is None or self._placement().is_sharded:
            raise ValueError("adapters of a storyboard are for models on one device")
        return self.facts.adapters()

    def check_prompt(self, prompt: str) -> str:
        """A note for the user about a prompt, or "". Raises ValueError if it cannot be encoded."""
        return self.prompts.check(prompt)

    # --- the stages of sampling

    def embed_prompt(self, prompt: str) -> Float[Array, "T E"]:
        """Text embeddings of one prompt."""
        return self.embed_prompts([[prompt]])[0, 0]

    def embed_prompts(self, prompts: Sequence[Sequence[str]]) -> Float[Array, "B S T E"]:
        """Text embeddings of a batch of stories, every prompt encoded alone.

        Raises NotFinite if the encoder makes numbers that are none.
        """
        ids = np.stack([np.stack([self.prompts.ids(p) for p in story]) for story in prompts])
        embeds = encode_prompts(self.networks.get("text encoder"), jnp.asarray(ids))
        check_finite("text embeddings", embeds)
        if self.networks.plan.text_on_host:
            return jnp.asarray(np.asarray(embeds))
        return embeds

    def encode_clip(
        self, clip: UInt8[np.ndarray, "F H W 3"], key: Key[Array, ""]
    ) -> Float[Array, "f h w C"]:
        """Latents of a given clip; `key` is the scene's. Raises NotFinite as `embed_prompts`."""
        latents = self.codec.encode(self.networks, clip[None], key[None])[0]
        check_finite("latents of a given clip", latents)
        return latents

    def encode_first(
        self, picture: UInt8[np.ndarray, "1 H W 3"], frames: int, key: Key[Array, ""]
    ) -> Float[Array, "f h w C"]:
        """First latents of a scene of so many frames that begins with a picture."""
        latents = self.codec.encode_first(self.networks, picture, frames, key)
        check_finite("latents of a picture", latents)
        return latents

    def denoise(
        self,
        steps: SamplingSteps,
        conditions: Conditions,
        noise: Latents,
        step_noise: Callable[[int], Latents],
        frames: Frames = None,
        lora: Sequence[Sequence[str]] = (),
    ) -> "Sequence[StepResult] | Any":
        """An iterator over the sampling steps of one story; see `pipeline.denoise.denoise`.

        `lora` are the adapters of each text of the story; then given scenes are not cached. Raises
        ValueError for them where blocks are streamed from the host.
        """
        transformer = self._transformer
        if any(lora):
            transformer = self._with_lora(transformer, lora)
        return denoise(
            transformer,
            steps,
            conditions,
            noise,
            step_noise,
            self._placement(),
            cache=not any(lora),
            frames=frames,
            in_turn=self.networks.plan.in_turn,
        )

    def _with_lora(
        self, transformer: Transformer | Experts, lora: Sequence[Sequence[str]]
    ) -> Transformer | Experts:
        def adapted(network: Transformer, folder: str) -> Transformer:
            if not isinstance(network, LoadedNetwork):
                raise ValueError("lora of a storyboard needs --memory=resident or offload")
            return self._scene_adapters.attach(lora, network, folder)

        if not isinstance(transformer, Experts):
            return adapted(transformer, "transformer")
        first, second, boundary = transformer.first, transformer.second, transformer.boundary
        return Experts(
            lambda: adapted(first(), "transformer"), lambda: adapted(second(), SECOND), boundary
        )

    @property
    def _transformer(self) -> Transformer | Experts:
        first = partial(self.networks.get_instead, "transformer", SECOND)
        boundary = self.schedule.boundary_timestep
        if not boundary:
            return first()
        second = partial(self.networks.get_instead, SECOND, "transformer")
        return Experts(first, second, boundary)

    def decode(
        self, latents: Float[np.ndarray, "f h w C"], frames: int, name: str = "scene"
    ) -> UInt8[np.ndarray, "{frames} H W 3"]:
        """The `frames` frames of a scene's latents."""
        return self.codec.decode(self.networks, latents[None], frames, name)[0]

    def sample_many(
        self,
        prompts: Sequence[Sequence[str]],
        seeds: Sequence[int],
        *,
        options: SamplingOptions | None = None,
        places: Sequence[int] | None = None,
        clips: UInt8[np.ndarray, "B S F H W 3"] | None = None,
        given: Bool[np.ndarray, "B S"] | None = None,
        negative_prompt: str = "",
        noise_clips: bool = False,
        cache: bool = True,
        global_prompts: Sequence[str] | None = None,
        frames: tuple[int, ...] | None = None,
    ) -> Samples:
        """A batch of stories of the model's own size, in one compiled loop over the steps.

        Story i has the frames that a call with `seed=seeds[i]` gives. `given` scenes are those of
        `clips`, which holds anything for the others. `places` are those of the scenes in a longer
        story, from 0. `noise_clips` gives given scenes the noise of timestep 0; `cache` as in
        `denoise`. `global_prompts` are those of the stories. Scenes of unequal length, whose
        `frames` are counted, are filled up with black. Raises ValueError for a prompt or options
        that cannot be, NotFinite if the networks make numbers that are none.
        """
        options = options or self.options
        stories, scenes = len(prompts), len(prompts[0])
        places = range(scenes) if places is None else places
        size = self.defaults.frames, self.defaults.height, self.defaults.width
        if given is None:
            given = np.zeros((stories, scenes), bool)
        steps = options.table(self.schedule, scenes)
        keys = story_keys(list(seeds), list(places))
        if global_prompts is None and self.facts.global_text:
            global_prompts = [""] * stories
        if global_prompts is not None:
            pairs = zip(global_prompts, prompts, strict=True)
            prompts = [[text, *story] for text, story in pairs]
        if frames is not None and len(set(frames)) == 1:
            size, frames = (frames[0], *size[1:]), None
            clips = None if clips is None else clips[:, :, : size[0]]
        rows = stories * (2 if options.needs_negative else 1)
        self.networks.prepare(StorySize(scenes, *size, rows))
        with self.networks.session():
            embeds = self.embed_prompts(prompts)
            negative = None
            if options.needs_negative:
                empty = self.embed_prompt(negative_prompt)
                negative = jnp.broadcast_to(empty, embeds.shape)
            clean = self._clean(clips, given, keys, size)
            if noise_clips:
                drawn = scene_noise(keys, GIVEN, clean.shape[2:])
                clean = noise_given(self.schedule, clean, drawn)
            conditions = Conditions(clean, jnp.asarray(given), embeds, negative)
            transformer = self._transformer
            latent_frames = frames and tuple(
                self.codec.latent_shape(n, *size[1:])[0] for n in frames
            )
            how = (self._placement(), cache, latent_frames, self.networks.plan.in_turn)
            made = denoise_batch(transformer, steps, conditions, keys, *how)
            latents = np.asarray(made.latents, np.float32)
            check_finite("generated latents", latents)
            flat = latents.reshape(-1, *latents.shape[2:])
            video = self.codec.decode(self.networks, flat, size[0], "scene")
        video = video.reshape(stories, scenes, *video.shape[1:])
        if frames is not None:
            is_real = np.arange(size[0]) < np.array(frames)[:, None]
            video = np.where(is_real[:, :, None, None, None], video, 0).astype(np.uint8)
        if clips is not None:
            # Given scenes come back as they went in, not as the codec's round trip of them.
            video = np.where(given[:, :, None, None, None, None], clips, video)
        return Samples(video, latents, np.asarray(made.evaluations))

    def _clean(
        self,
        clips: UInt8[np.ndarray, "B S F H W 3"] | None,
        given: Bool[np.ndarray, "B S"],
        keys: Key[Array, "B S"],
        size: tuple[int, int, int],
    ) -> Float[Array, "B S f h w C"]:
        """Latents of the given scenes, zeros for the others."""
        shape = (*given.shape, *self.codec.latent_shape(*size))
        if clips is None or not given.any():
            return jnp.zeros(shape)
        clean = np.zeros(shape, np.float32)
        clean[given] = np.asarray(self.codec.encode(self.networks, clips[given], keys[given]))
        check_finite("latents of given clips", clean)
        return jnp.asarray(clean)
