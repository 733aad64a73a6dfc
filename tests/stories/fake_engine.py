"""An engine that needs no network, and remembers what it was asked for."""

import jax.numpy as jnp
import numpy as np

from m2dit_jax.data.tokenizer import build_byte_tokenizer
from m2dit_jax.diffusion.sampling import StepResult
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.placement import ONE_DEVICE
from m2dit_jax.pipeline.engine import Engine, ModelFacts
from m2dit_jax.pipeline.memory import NetworkSet
from m2dit_jax.pipeline.prompts import PromptTokenizer
from m2dit_jax.stories.settings import StoryOptions


class FakeCodec:
    """Frames are four times the size of latents, and grey."""

    decoder_name = "fake"

    def __init__(self, instant, log):
        self.instant, self.log = instant, log

    def latent_shape(self, frames, height, width):
        if frames > 8:
            raise ValueError(f"{frames} frames are too many")
        return frames, 2, 2, 1

    def encode(self, networks, clips, keys):
        networks.get("VAE")
        return jnp.stack([jnp.full((len(c), 2, 2, 1), float(c.mean()) / 255) for c in clips])

    def encode_first(self, networks, picture, frames, key):
        return self.encode(networks, picture[None], key[None])[0]

    def decode(self, networks, latents, frames, name):
        networks.get("VAE")
        self.log.append(f"decode {name}")
        values = np.nan_to_num(np.asarray(latents)[..., :1])
        grey = np.where(np.abs(values) > 100, 255, values * 1e5 % 256)
        return np.tile(grey.astype(np.uint8), (1, 1, 2, 2, 3))

    def as_given(self, latents):
        return latents


class TwoNetworks(NoiseSchedule):
    """That of a model of two transformers, so that every option means something."""

    boundary = 0.5


class FakeEngine(Engine):
    """A scene's value is the mean of its noise, of all prompts' bytes and of its context's values.

    So it changes with everything that it should depend on. `spoil` maps numbers of generated
    groups to a value that all of their new scenes get.
    """

    def __init__(self, instant_decoder=True, window=3, fingerprint="weights"):
        self.log, self.encoded, self.spoil = [], [], {}
        self.groups = 0
        facts = ModelFacts(
            schedule=TwoNetworks(),
            defaults=StoryOptions(
                **{"frames": 2, "height": 4, "width": 4, "fps": 4.0, "sampler": "ddim"},
                **{"steps": 2, "guidance_scale": 2.0},
                **{"window": window, "new_scenes": 1, "anchor": True},
            ),
            source="fake",
            mask="symmetric",
            default_checks=("finite", "frozen"),
            fingerprint=lambda: fingerprint,
            provenance={"checkpoint": {"path": "fake", "step": 1}, "config": {}},
        )
        names = ("text encoder", "transformer", "VAE")
        loaders = {name: lambda name=name: self.log.append(name) or object() for name in names}
        networks = NetworkSet(loaders, resident=False)
        codec = FakeCodec(instant_decoder, self.log)
        prompts = PromptTokenizer(build_byte_tokenizer(), 64, unit="bytes")
        super().__init__(facts, prompts, networks, codec, lambda: ONE_DEVICE)

    @property
    def opened(self):
        return self.networks.loaded

    def embed_prompt(self, prompt):
        self.networks.get("text encoder")
        self.encoded.append(prompt)
        return jnp.full((1, 2), sum(prompt.encode()) / 1000)

    def denoise(self, steps, conditions, noise, step_noise, frames=None, lora=()):
        self.networks.get("transformer")
        self.groups += 1
        text = conditions.text_embeds.mean() + (steps.guidance * 0.01).mean()
        if conditions.negative_embeds is not None:
            text -= 0.1 * conditions.negative_embeds.mean()
        given = conditions.given[..., None, None, None, None]
        value = 0.1 * noise + 0.1 * text + 0.3 * jnp.where(given, conditions.clean, 0).mean()
        value = jnp.full_like(value, self.spoil.get(self.groups, 0)) + value
        made = jnp.where(given, conditions.clean, value)
        for _ in steps.timesteps:
            yield StepResult(made, made, made, jnp.full(1, 2, jnp.int32))
