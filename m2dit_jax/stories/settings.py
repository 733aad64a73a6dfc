"""The settings of a story that a storyboard may leave to the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingSettings:
    """What a storyboard may leave to the model."""

    frames: int
    height: int
    width: int
    fps: float
    sampler: str
    steps: int
    guidance_scale: float
    window: int
    new_scenes: int
    anchor: bool
