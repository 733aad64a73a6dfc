"""The settings of a story beside those of its sampling run, declared once."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.stories.gate import CHECKS, Check
from m2dit_jax.utils.media import Quality
from m2dit_jax.utils.options import (
    FrameRate,
    Frames,
    Scale,
    Seed,
    Side,
    Text,
    WindowSize,
    option,
    same_option,
)


def _as_tuple(checks: Any) -> Any:
    if isinstance(checks, str):
        return (checks,)
    return tuple(checks) if isinstance(checks, list) else checks


def _in_order(checks: tuple[Check, ...] | None) -> tuple[Check, ...] | None:
    return None if checks is None else tuple(check for check in CHECKS if check in checks)


Retries = Annotated[int, Field(ge=0, le=100)]
Checks = Annotated[
    Annotated[tuple[Check, ...], Field(min_length=1)] | None,
    BeforeValidator(_as_tuple),
    AfterValidator(_in_order),
]


class StoryOptions(SamplingOptions, frozen=True):
    """Every setting of a story. Sizes are in pixels, `fps` in frames per second.

    A model's own defaults are such settings, of which those are set that it decides. Raises
    OptionError for values outside a field's range.
    """

    guidance_scale: Scale = same_option(SamplingOptions, "guidance_scale", 6.0)
    given_guidance_scale: Scale | None = same_option(SamplingOptions, "given_guidance_scale", None)
    seed: Seed = option(
        0, "Number that the noise is drawn by: the same seed gives the same story.", affects="scene"
    )
    negative_prompt: Text = option(
        "", "Text that guidance leads away from.", affects="scene", by_model=True
    )
    global_prompt: Text = option("", "Text that every scene sees.", affects="latents")
    frames: Frames = option(49, "Frames of a scene.", affects="scene", by_model=True)
    height: Side = option(480, "Height of the video in pixels.", affects="latents", by_model=True)
    width: Side = option(720, "Width of the video in pixels.", affects="latents", by_model=True)
    fps: FrameRate = option(
        8.0, "Frames per second of the written video.", affects="video", by_model=True
    )
    video_quality: Quality = option(
        "standard",
        'Coding of the written videos: "lossless" keeps every pixel, for scenes that other '
        "programs, or later stories, go on with; few browsers and phones show it.",
        affects="video",
    )
    noise_given: bool = option(
        False,
        "Given scenes get the noise of timestep 0, as the reference does when it extends a story.",
        affects="latents",
    )
    window: WindowSize = option(
        3, "Scenes that go through the model at once.", affects="windows", by_model=True
    )
    new_scenes: WindowSize = option(
        1,
        "Scenes of a window that are generated, where enough others are known to be given.",
        affects="windows",
        by_model=True,
    )
    anchor: bool = option(
        True,
        "The story's first scene is always given to later ones, against drift.",
        affects="windows",
        by_model=True,
    )
    retries: Retries = option(
        0, "How often a scene that fails one of the checks is drawn again.", affects="checks"
    )
    checks: Checks = option(
        None,
        "Checks that a scene must pass; with retries, those that suit the model if none is named.",
        affects="checks",
    )

    def sampling(self, guidance_scale: float | tuple[float, ...] | None = None) -> SamplingOptions:
        """Options of a sampling run, with another scale of guidance if one is given."""
        values = {name: getattr(self, name) for name in SamplingOptions.model_fields}
        if guidance_scale is not None:
            values["guidance_scale"] = guidance_scale
        return SamplingOptions(**values)
