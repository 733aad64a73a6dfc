"""Stories of pixels, from the checkpoint of a training run here."""

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.recipe import Params, Recipe, build_recipe
from m2dit_jax.sampling import SamplingSettings, StoryPlan
from m2dit_jax.story_sampler import StorySampler
from m2dit_jax.training.checkpoints import load_config, load_for_sampling


def trained_defaults(recipe: Recipe) -> SamplingSettings:
    """How a model that was trained here samples, if the storyboard does not say."""
    frames, height, width = recipe.scene_size()
    sample = recipe.config.sample
    return SamplingSettings(
        frames=frames,
        height=height,
        width=width,
        fps=sample.fps,
        sampler="ddim",
        steps=sample.steps,
        guidance_scale=sample.guidance_scale,
    )


class TrainedStories:
    """A `StoryMaker` of a training run's workdir; its averaged weights are read when needed.

    Raises CheckpointError if there is no checkpoint, ValueError for a config that cannot be.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.config = load_config(workdir)
        self.recipe = build_recipe(self.config)

    @property
    def schedule(self) -> NoiseSchedule:
        """As in training."""
        return self.recipe.schedule

    @property
    def defaults(self) -> SamplingSettings:
        """From `config.sample` and `config.data`."""
        return trained_defaults(self.recipe)

    @property
    def source(self) -> str:
        """Where the defaults are written."""
        return "config.sample"

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for a size other than that of the training videos."""
        trained = self.recipe.scene_size()
        if (frames, height, width) != trained:
            raise ValueError(
                f"{frames} frames of {height}x{width} cannot be: this model was trained with "
                f"{trained[0]} frames of {trained[1]}x{trained[2]}"
            )

    def check_prompt(self, prompt: str) -> str:
        """Raises ValueError for a prompt of words that is too long or has unknown ones."""
        self.recipe.tokenize([prompt])
        most = self.config.data.text_length
        if self.config.data.source == "pixels" and len(prompt.encode()) >= most:
            return f"the prompt has {len(prompt.encode())} bytes, the model reads {most - 1}"
        return ""

    @cached_property
    def weights(self) -> tuple[Params, int]:
        """The averaged weights and the step they are of."""
        _, params, step = load_for_sampling(self.workdir)
        return params, step

    @cached_property
    def _sampler(self) -> StorySampler:
        """Kept, since it keeps what it has compiled."""
        return StorySampler(self.recipe)

    def make(self, plan: StoryPlan, folder: Path) -> UInt8[np.ndarray, "S F H W 3"]:
        """All scenes of the plan; the given ones are its clips, unchanged."""
        story = plan.storyboard
        return self._sampler.sample(
            self.weights[0],
            plan.table(self.schedule),
            jax.random.key(story.seed)[None],
            plan.clips[None],
            np.array([story.given]),
            [[scene.prompt for scene in story.scenes]],
            story.negative_prompt,
            story.noise_given,
        )[0]

    def provenance(self) -> dict[str, Any]:
        """Checkpoint and config."""
        return {
            "checkpoint": {"path": str(self.workdir.absolute()), "step": self.weights[1]},
            "config": self.config.to_dict(),
        }
