"""A storyboard checked against a model: what is to be made, with every setting filled in."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.options import SamplingOptions, option_problems
from m2dit_jax.models.masks import check_global_text
from m2dit_jax.stories.noise import scene_seed
from m2dit_jax.stories.scene import Clip, Scene
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard, settings_to_mapping
from m2dit_jax.stories.windows import Windows, check_windows
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.media import VideoError, fit_clip, frames_digest, read_clip
from m2dit_jax.utils.options import problem_lines
from m2dit_jax.utils.stills import StillError, read_still


@runtime_checkable
class PlannedModel(Protocol):
    """The properties of a model that a plan depends on; no network is loaded for it."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        ...

    @property
    def defaults(self) -> StoryOptions:
        """Values for what a storyboard leaves to the model."""
        ...

    @property
    def source(self) -> str:
        """Place where the defaults are written, for messages."""
        ...

    @property
    def default_checks(self) -> tuple[str, ...]:
        """The gate's checks that suit the model."""
        ...

    @property
    def mask(self) -> str:
        """The attention mask, one of `masks.MASKS`."""
        ...

    def check_lora(self, choice: str) -> str:
        """Hash and weight of a file of adapters. Raises ValueError if it does not fit the model."""
        ...

    @property
    def adapts_scenes(self) -> bool:
        """Whether single scenes can have adapters of their own, and not the whole story alone."""
        ...

    @property
    def learnt_pictures(self) -> bool:
        """Whether the model has learnt with pictures beside a story's scenes."""
        ...

    @property
    def learnt_first_frames(self) -> bool:
        """Whether the model has learnt to go on from a first frame."""
        ...

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError, with sizes that work, if the model cannot make such scenes."""
        ...

    def check_prompt(self, prompt: str) -> str:
        """A note for the user about a prompt, or "". Raises ValueError if it cannot be encoded."""
        ...


@dataclass(frozen=True)
class StoryPlan:
    """A storyboard that a model can make, and all its settings.

    `clip_digests` has one for each scene with a clip or a picture, None for others; they are
    read when they are needed, since those of a long story need not fit into memory. `checks` are
    the gate's, none for no gate. `notes` are what the user should know before a long run.
    """

    storyboard: Storyboard
    settings: StoryOptions
    clip_digests: tuple[str | None, ...]
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    lora_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Hash and weight of each file of adapters, by how a scene names it."""

    @property
    def windows(self) -> Windows:
        """Windows in which the scenes go through the model together."""
        settings = self.settings
        return Windows(settings.window, settings.new_scenes, settings.anchor)

    def setting(self, name: str, scene: int) -> Any:
        """Value that holds for a scene: its own or, where it has none, the story's."""
        of_scene = self.storyboard.scenes[scene]
        if name == "frames" and of_scene.is_reference:
            return 1
        own = getattr(of_scene, name)
        return getattr(self.settings, name) if own is None else own

    def frames(self, scene: int) -> int:
        """Number of frames of a scene of the finished video."""
        return self.setting("frames", scene)

    def negative_prompt(self, scene: int) -> str:
        """Text that guidance leads a scene away from."""
        return self.setting("negative_prompt", scene)

    def seed(self, scene: int) -> list[int]:
        """Numbers that the noise of a scene is drawn by."""
        return scene_seed(self.settings.seed, scene, self.storyboard.scenes[scene].seed)

    def take(self, scene: int) -> int:
        """Number of the take of a scene, 0 for the first."""
        return self.storyboard.scenes[scene].take

    def lora(self, scene: int) -> tuple[str, ...]:
        """Files of adapters of a scene, FILE or FILE:WEIGHT."""
        own = self.storyboard.scenes[scene].lora
        return self.storyboard.lora if own is None else own

    def clip(self, scene: int) -> UInt8[np.ndarray, "F H W 3"]:
        """Frames of a given scene, or the one frame of a picture.

        Raises VideoError or StillError if the file is no longer what it was.
        """
        return _read_given(self.storyboard.scenes[scene], self.frames(scene), self.settings)

    def options(self, scenes: Sequence[int]) -> SamplingOptions:
        """Options of a sampling run of these scenes."""
        scales = tuple(self.setting("guidance_scale", scene) for scene in scenes)
        return self.settings.sampling(scales[0] if len(set(scales)) == 1 else scales)

    def to_mapping(self, videos: Mapping[int, Path | str] | None = None) -> dict[str, Any]:
        """The content of a storyboard file that leaves nothing to the model.

        `videos` says where clips can be read that were given as frames (`Storyboard.to_mapping`).
        """
        checks = {"checks": list(self.checks)} if self.checks else {}
        return {
            **self.storyboard.lora_to_mapping(),
            "scenes": self.storyboard.scenes_to_mapping(videos or {}),
            **settings_to_mapping(vars(self.settings)),
            **checks,
        }


def plan_story(storyboard: Storyboard, model: PlannedModel) -> StoryPlan:
    """Checks the storyboard against the model and reads each of its clips once.

    Raises StoryboardError with every problem: prompts that the model's tokenizer cannot take, clips
    that are too short or damaged, sizes that the model cannot make, more steps than its schedule
    has, windows that cannot be.
    """
    problems, notes = _check_prompts(storyboard, model)
    settings = storyboard.filled(model.defaults)

    def place(*fields: str) -> str:
        """Places of the values: in the storyboard, on the command line, in the model."""
        return storyboard.places(*fields) or f"{model.source}.{fields[0]}"

    def size_is_possible(field: str, frames: int) -> bool:
        return _checked(
            problems,
            place(field, "height", "width"),
            lambda: model.check_size(frames, settings.height, settings.width),
        )

    possible = size_is_possible("frames", settings.frames)
    digests: list[str | None] = [None] * len(storyboard.scenes)
    for i, scene in enumerate(storyboard.scenes):
        if scene.frames is not None and not size_is_possible(f"scenes[{i}].frames", scene.frames):
            continue
        if possible and (scene.given or scene.first_frame):
            field = f"scenes[{i}].{'video' if scene.image is None else 'image'}"
            try:
                clip = _read_given(scene, scene.frames or settings.frames, settings)
            except (VideoError, StillError) as error:
                problems.append(f"{storyboard.place(field)}: {error}")
            else:
                digests[i] = frames_digest(clip)
                notes += _picture_notes(scene, model, storyboard.place(field))
    if settings.global_prompt:
        _checked(problems, place("global_prompt"), lambda: check_global_text(model.mask))
    checks = _checks(settings, model)
    lora: dict[str, str] = {}
    for named, of_place in (
        (storyboard.lora, "lora"),
        *((scene.lora or (), f"scenes[{i}].lora") for i, scene in enumerate(storyboard.scenes)),
    ):
        for choice in named:
            _checked(
                problems,
                storyboard.place(of_place),
                lambda choice=choice: lora.update({choice: model.check_lora(choice)}),
            )
    plan = StoryPlan(storyboard, settings, tuple(digests), checks, tuple(notes), lora)
    problems += [
        f"{storyboard.place(f'scenes[{i}].lora')}: models of this family have adapters for a whole "
        "story alone; needs lora of the story"
        for i in range(len(storyboard.scenes))
        if plan.lora(i) != storyboard.lora and not model.adapts_scenes
    ]
    options = plan.options(range(len(storyboard.scenes)))
    for field, problem in option_problems(options, model.schedule).items():
        problems.append(f"{place(field)}: {problem}")
    _checked(problems, place("new_scenes", "window"), lambda: check_windows(plan.windows))
    if problems:
        raise StoryboardError(problem_lines(problems))
    return plan


def _read_given(scene: Scene, frames: int, settings: StoryOptions) -> Clip:
    size = frames, settings.height, settings.width
    if scene.image is not None:
        picture = read_still(scene.image) if isinstance(scene.image, Path) else scene.image
        return fit_clip(picture[None], 1, *size[1:], scene.crop)
    assert scene.video is not None, "the scene is not given"
    if isinstance(scene.video, Path):
        return read_clip(scene.video, *size, scene.crop)
    return fit_clip(scene.video, *size, scene.crop)


def _picture_notes(scene: Scene, model: PlannedModel, place: str) -> list[str]:
    """A line for the user about a picture that the model has not learnt to read."""
    if scene.first_frame and model.learnt_first_frames:
        return []
    if scene.first_frame:
        return [
            f"{place}: the picture is put in as the first frame while the scene is sampled; this "
            "model was not trained for it"
        ]
    if scene.is_reference and not model.learnt_pictures:
        return [
            f"{place}: this model was not trained with pictures beside scenes, nor were released "
            "weights: it may take little from one (config.train.image_probability trains that)"
        ]
    return []


def _checks(settings: StoryOptions, model: PlannedModel) -> tuple[str, ...]:
    if settings.checks is None and settings.retries:
        return model.default_checks
    return settings.checks or ()


def _checked(problems: list[str], place: str, check: Callable[[], None]) -> bool:
    """Runs a check and returns whether it passes; else its problem is added."""
    try:
        check()
    except ValueError as error:
        problems.append(f"{place}: {error}")
        return False
    return True


def _check_prompts(storyboard: Storyboard, model: PlannedModel) -> tuple[list[str], list[str]]:
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
            note = model.check_prompt(prompt)
        except ValueError as error:
            problems.append(f"{storyboard.place(field)}: {error}")
        else:
            notes += [f"{storyboard.place(field)}: {note}"] if note else []
    return problems, notes
