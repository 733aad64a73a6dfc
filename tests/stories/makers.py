"""A maker that needs no network, and remembers what it was asked for."""

from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np

from m2dit_jax.diffusion.generate import StepResult
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.stories.settings import StoryOptions


class FakeMaker:
    """A scene's value is the mean of its noise, of all prompts' bytes and of its context's values.

    So it changes with everything that it should depend on. `spoil` maps numbers of generated
    groups to a value that all of their new scenes get.
    """

    schedule = NoiseSchedule()
    source = "fake"
    mask = "symmetric"
    default_checks = ("finite", "frozen")
    decoder_name = "fake"

    def __init__(self, instant_decoder=True, window=3, fingerprint="weights"):
        self.instant_decoder = instant_decoder
        self.fingerprint = fingerprint
        self.defaults = StoryOptions(
            **{"frames": 2, "height": 4, "width": 4, "fps": 4.0, "sampler": "ddim", "steps": 2},
            **{"guidance_scale": 2.0, "window": window, "new_scenes": 1, "anchor": True},
        )
        self.opened, self.log, self.encoded, self.spoil = [], [], [], {}
        self.groups = 0

    def check_size(self, frames, height, width):
        if frames > 8:
            raise ValueError(f"{frames} frames are too many")

    def check_prompt(self, prompt):
        return ""

    def latent_shape(self, frames, height, width):
        return frames, 2, 2, 1

    @contextmanager
    def _open(self, name, network):
        self.opened.append(name)
        self.log.append(name)
        try:
            yield network
        finally:
            self.opened.remove(name)

    def text_encoder(self):
        def encode(prompt):
            self.encoded.append(prompt)
            return jnp.full((1, 2), sum(prompt.encode()) / 1000)

        return self._open("text_encoder", encode)

    def clip_encoder(self):
        def encode(clip, key):
            return jnp.full((len(clip), 2, 2, 1), float(clip.mean()) / 255)

        return self._open("clip_encoder", encode)

    def transformer(self):
        def run(steps, story, noise, step_noise, *, frames):
            self.groups += 1
            text = story.text_embeds.mean() + (steps.guidance * 0.01).mean()
            if story.negative_embeds is not None:
                text -= 0.1 * story.negative_embeds.mean()
            given = story.given[..., None, None, None, None]
            value = 0.1 * noise + 0.1 * text + 0.3 * jnp.where(given, story.clean, 0).mean()
            value = jnp.full_like(value, self.spoil.get(self.groups, 0)) + value
            made = jnp.where(given, story.clean, value)
            for _ in steps.timesteps:
                yield StepResult(made, made, made, jnp.full(1, 2, jnp.int32))

        return self._open("transformer", run)

    def decoder(self):
        def decode(latents, name):
            self.log.append(f"decode {name}")
            values = np.nan_to_num(np.asarray(latents)[..., :1])
            grey = np.where(np.abs(values) > 100, 255, values * 1e5 % 256)
            return np.tile(grey.astype(np.uint8), (1, 2, 2, 3))

        return self._open("decoder", decode)

    def as_given(self, latents):
        return latents

    def oracle(self, prompts, scene, frames):
        return []

    def provenance(self):
        return {"checkpoint": {"path": "fake", "step": 1}, "config": {}}
