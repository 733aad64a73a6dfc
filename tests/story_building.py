"""Builds stories as a pipeline does, but hands out the frames."""

from pathlib import Path

import numpy as np

from m2dit_jax.pipeline.build import StoryBuilder
from m2dit_jax.stories.output import SCENES
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.store import SceneStore


def build_scenes(engine, storyboard, folder: Path) -> list[np.ndarray]:
    """The frames of each scene."""
    builder = StoryBuilder(plan_story(storyboard, engine), engine, SceneStore(folder / SCENES))
    outcomes = builder.build(lambda progress: None, lambda scene, frames: None)
    return [builder.frames(outcomes[scene]) for scene in sorted(outcomes)]
