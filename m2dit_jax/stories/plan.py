"""A storyboard checked against a model: what is to be made, with every setting filled in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.diffusion.options import SamplingOptions, option_problems
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.masks import check_global_text
from m2dit_jax.stories.noise import scene_seed
from m2dit_jax.stories.settings import SamplingSettings
from m2dit_jax.stories.storyboard import Storyboard, StoryboardError, storyboard_to_mapping
from m2dit_jax.stories.windows import Windows, check_windows
from m2dit_jax.utils.media import VideoError, frames_digest, read_clip

# Options of sampling that a storyboard does not leave to the model.
_STORY_OPTIONS = (
    *("dynamic_guidance", "as_reference", "guidance_start", "guidance_end", "reuse_uncond"),
    *("given_guidance_scale", "cache_tolerance"),
)


@runtime_checkable
class PlannedModel(Protocol):
    """What a plan must know of a model; no network is loaded for it."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        ...

    @property
    def defaults(self) -> SamplingSettings:
        """Values for what a storyboard leaves to the model."""
        ...

    @property
    def source(self) -> str:
        """Where the defaults are written, for messages."""
        ...

    @property
    def default_checks(self) -> tuple[str, ...]:
        """Those of the gate's checks that suit the model."""
        ...

    @property
    def mask(self) -> str:
        """The attention mask, one of `masks.MASKS`."""
        ...

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError, with sizes that work, if the model cannot make such scenes."""
        ...

    def check_prompt(self, prompt: str) -> str:
        """A note for the user about a prompt, or "". Raises ValueError if it cannot be encoded."""
        ...


@dataclass(frozen=True)
class StoryPlan:
    """A checked storyboard and what it says or leaves to the model.

    `clip_digests` has one for each scene, None for those to generate; the clips themselves are
    read when they are needed, since those of a long story need not fit into memory. `checks` are
    the gate's, none for no gate. `notes` are what the user should know before a long run.
    """

    storyboard: Storyboard
    settings: SamplingSettings
    clip_digests: tuple[str | None, ...]
    checks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def windows(self) -> Windows:
        """How the story is cut."""
        settings = self.settings
        return Windows(settings.window, settings.new_scenes, settings.anchor)

    def frames(self, scene: int) -> int:
        """Of a scene of the finished video."""
        return self.storyboard.scenes[scene].frames or self.settings.frames

    def seed(self, scene: int) -> list[int]:
        """What a scene draws by."""
        return scene_seed(self.storyboard.seed, scene, self.storyboard.scenes[scene].seed)

    def clip(self, scene: int) -> UInt8[np.ndarray, "F H W 3"]:
        """A given scene's frames. Raises VideoError if the file is no longer what it was."""
        path = self.storyboard.scenes[scene].video
        assert path is not None, f"scene {scene} is not given"
        return read_clip(path, self.frames(scene), self.settings.height, self.settings.width)

    def options(self, scenes: Sequence[int]) -> SamplingOptions:
        """Of a sampling run of these scenes."""
        return _options(self.storyboard, self.settings, scenes)

    def to_mapping(self) -> dict[str, Any]:
        """The content of a storyboard file that leaves nothing to the model."""
        checks = {"checks": list(self.checks)} if self.checks else {}
        return storyboard_to_mapping(self.storyboard) | vars(self.settings) | checks


def plan_story(storyboard: Storyboard, maker: PlannedModel) -> StoryPlan:
    """Checks the storyboard against the model and reads each of its clips once.

    Raises StoryboardError with every problem: prompts that the model's tokenizer cannot take, clips
    that are too short or damaged, sizes that the model cannot make, more steps than its schedule
    has, windows that cannot be.
    """
    problems, notes = _check_prompts(storyboard, maker)
    settings = _filled_in(storyboard, maker.defaults)

    def place(*fields: str) -> str:
        """Where the values were written: in the storyboard, on the command line, in the model."""
        found = [storyboard.places[field] for field in fields if field in storyboard.places]
        return ", ".join(found) or f"{maker.source}.{fields[0]}"

    def size_is_possible(field: str, frames: int) -> bool:
        return _checked(
            problems,
            place(field, "height", "width"),
            lambda: maker.check_size(frames, settings.height, settings.width),
        )

    possible = size_is_possible("frames", settings.frames)
    digests: list[str | None] = [None] * len(storyboard.scenes)
    for i, scene in enumerate(storyboard.scenes):
        if scene.frames is not None and not size_is_possible(f"scenes[{i}].frames", scene.frames):
            continue
        if possible and scene.video is not None:
            frames = scene.frames or settings.frames
            try:
                clip = read_clip(scene.video, frames, settings.height, settings.width)
            except VideoError as error:
                problems.append(f"{storyboard.place(f'scenes[{i}].video')}: {error}")
            else:
                digests[i] = frames_digest(clip)
    if storyboard.global_prompt:
        _checked(problems, place("global_prompt"), lambda: check_global_text(maker.mask))
    options = _options(storyboard, settings, range(len(storyboard.scenes)))
    for field, problem in option_problems(options, maker.schedule).items():
        problems.append(f"{place(field)}: {problem}")
    windows = Windows(settings.window, settings.new_scenes, settings.anchor)
    _checked(problems, place("new_scenes", "window"), lambda: check_windows(windows))
    if problems:
        raise StoryboardError("\n".join(problems))
    return StoryPlan(storyboard, settings, tuple(digests), _checks(storyboard, maker), tuple(notes))


def _options(
    story: Storyboard, settings: SamplingSettings, scenes: Sequence[int]
) -> SamplingOptions:
    own = [story.scenes[scene].guidance_scale for scene in scenes]
    scales = tuple(settings.guidance_scale if scale is None else scale for scale in own)
    return SamplingOptions(
        sampler=settings.sampler,
        steps=settings.steps,
        guidance_scale=scales[0] if len(set(scales)) == 1 else scales,
        **{name: getattr(story, name) for name in _STORY_OPTIONS},
    )


def _filled_in(storyboard: Storyboard, defaults: SamplingSettings) -> SamplingSettings:
    """The model's defaults where the storyboard says nothing."""
    said = {name: getattr(storyboard, name) for name in vars(defaults)}
    known = {name: value for name, value in said.items() if value is not None}
    if storyboard.window is not None and storyboard.new_scenes is None:
        known["new_scenes"] = min(defaults.new_scenes, storyboard.window)
    return replace(defaults, **known)


def _checks(storyboard: Storyboard, maker: PlannedModel) -> tuple[str, ...]:
    if storyboard.checks is None and storyboard.retries:
        return maker.default_checks
    return storyboard.checks or ()


def _checked(problems: list[str], place: str, check: Callable[[], None]) -> bool:
    """Whether a check passes; else the problem is added."""
    try:
        check()
    except ValueError as error:
        problems.append(f"{place}: {error}")
        return False
    return True


def _check_prompts(storyboard: Storyboard, maker: PlannedModel) -> tuple[list[str], list[str]]:
    """A line for each prompt that the tokenizer cannot take, and for each that it changes."""
    prompts = {f"scenes[{i}].prompt": s.prompt for i, s in enumerate(storyboard.scenes)}
    prompts |= {
        f"scenes[{i}].negative_prompt": s.negative_prompt
        for i, s in enumerate(storyboard.scenes)
        if s.negative_prompt is not None
    }
    prompts["negative_prompt"] = storyboard.negative_prompt
    prompts["global_prompt"] = storyboard.global_prompt
    problems, notes = [], []
    for field, prompt in prompts.items():
        try:
            note = maker.check_prompt(prompt)
        except ValueError as error:
            problems.append(f"{storyboard.place(field)}: {error}")
        else:
            notes += [f"{storyboard.place(field)}: {note}"] if note else []
    return problems, notes
