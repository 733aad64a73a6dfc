"""A storyboard and a model in, a folder of videos out; what `python -m m2dit_jax.sample` does.

Everything up to `plan_story` only checks and prepares, and needs no weights, so that whatever is
wrong with the user's input comes out within seconds.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import numpy as np
from jaxtyping import UInt8

import m2dit_jax
from m2dit_jax.diffusion.samplers import SamplingSteps, sampling_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.evaluation.report import write_json
from m2dit_jax.media import (
    VideoError,
    contact_sheet,
    frames_digest,
    read_clip,
    whole_file,
    write_gif,
    write_mp4,
)
from m2dit_jax.page import write_page
from m2dit_jax.storyboard import Storyboard, StoryboardError, storyboard_to_mapping

# The videos that write_story writes or, as scenes of an older and longer story, removes.
_OWN_VIDEO = re.compile(r"story\.(mp4|gif)|scene_[0-9]+\.mp4")


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


@runtime_checkable
class StoryMaker(Protocol):
    """A model as sampling sees it: one that was trained here, or a released one."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        ...

    @property
    def defaults(self) -> SamplingSettings:
        """For what a storyboard leaves to the model."""
        ...

    @property
    def source(self) -> str:
        """Where the defaults are written."""
        ...

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError, with sizes that work, if it cannot make such scenes."""
        ...

    def check_prompt(self, prompt: str) -> str:
        """What the user should know about a prompt, or "". Raises ValueError if it cannot be."""
        ...

    def make(self, plan: "StoryPlan", folder: Path) -> UInt8[np.ndarray, "S F H W 3"]:
        """All scenes of the plan; the given ones are its clips, unchanged."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Where the weights came from, fit for JSON."""
        ...


@dataclass(frozen=True)
class StoryPlan:
    """A checked storyboard, what it says or leaves to the model, and its given clips.

    `clips` have the size of the scenes; they are black for the scenes to generate. `notes` are
    what the user should know before a long run.
    """

    storyboard: Storyboard
    settings: SamplingSettings
    clips: UInt8[np.ndarray, "S F H W 3"]
    notes: tuple[str, ...]

    def table(self, schedule: NoiseSchedule) -> SamplingSteps:
        """The table of the sampling run."""
        return sampling_steps(
            schedule,
            self.settings.sampler,
            self.settings.steps,
            self.settings.guidance_scale,
            self.storyboard.dynamic_guidance,
            self.storyboard.as_reference,
        )

    def to_mapping(self) -> dict[str, Any]:
        """The content of a storyboard file that leaves nothing to the model."""
        return storyboard_to_mapping(self.storyboard) | vars(self.settings)


def make_story(storyboard: Storyboard, maker: StoryMaker, folder: Path) -> str:
    """Checks, generates and writes a story with its page; returns the digest of its frames.

    What the user should know goes to stderr. Raises StoryboardError before any long work, and
    before the folder is made, as `check_output` and `plan_story` do.
    """
    check_output(storyboard, folder)
    plan = plan_story(storyboard, maker)
    folder.mkdir(parents=True, exist_ok=True)
    for note in plan.notes:
        print(note, file=sys.stderr)
    digest = write_story(folder, plan, maker.make(plan, folder), maker.provenance())
    write_page(folder)
    return digest


def check_output(storyboard: Storyboard, folder: Path) -> None:
    """Raises StoryboardError if a given clip could be overwritten or removed by a story's files."""
    problems = [
        f"{storyboard.place(f'scenes[{i}].video')}: {scene.video} is a given clip, but its name in "
        f"--output={folder} is one of a story's own files: needs another folder"
        for i, scene in enumerate(storyboard.scenes)
        if scene.video is not None and _is_own_video(scene.video, folder)
    ]
    if problems:
        raise StoryboardError("\n".join(problems))


def plan_story(storyboard: Storyboard, maker: StoryMaker) -> StoryPlan:
    """Checks the storyboard against the model and reads its clips.

    Raises StoryboardError with every problem: prompts that the model's tokenizer cannot take, clips
    that are too short or damaged, sizes that the model cannot make, more steps than its schedule
    has.
    """
    problems, notes = _check_prompts(storyboard, maker)
    settings = _filled_in(storyboard, maker.defaults)
    frames, height, width = settings.frames, settings.height, settings.width

    def place(*fields: str) -> str:
        """Where the values were written: in the storyboard, on the command line, in the model."""
        found = [storyboard.places[field] for field in fields if field in storyboard.places]
        return ", ".join(found) or f"{maker.source}.{fields[0]}"

    size_is_possible = _checked(
        problems,
        place("frames", "height", "width"),
        lambda: maker.check_size(frames, height, width),
    )
    clips = [np.zeros((frames, height, width, 3), np.uint8)] * len(storyboard.scenes)
    if size_is_possible:
        for i, scene in enumerate(storyboard.scenes):
            if scene.video is not None:
                try:
                    clips[i] = read_clip(scene.video, frames, height, width)
                except VideoError as error:
                    problems.append(f"{storyboard.place(f'scenes[{i}].video')}: {error}")
    _checked(problems, place("steps"), lambda: maker.schedule.check_steps(settings.steps))
    if problems:
        raise StoryboardError("\n".join(problems))
    return StoryPlan(storyboard, settings, np.stack(clips), tuple(notes))


def write_story(
    folder: Path,
    plan: StoryPlan,
    video: UInt8[np.ndarray, "S F H W 3"],
    provenance: dict[str, Any],
) -> str:
    """Writes all files of a story into the folder and returns the digest of its frames.

    Each file replaces an older one only when it is whole; story.json, which names them, comes last.
    """
    given, fps = plan.storyboard.given, plan.settings.fps
    prompts = [scene.prompt for scene in plan.storyboard.scenes]
    story_name, *scene_names = _video_names(len(prompts))
    frames = video.reshape(-1, *video.shape[2:])
    write_mp4(folder / story_name, frames, fps)
    write_gif(folder / "story.gif", frames, fps)
    for name, scene in zip(scene_names, video, strict=True):
        write_mp4(folder / name, scene, fps)
    with whole_file(folder / "contact_sheet.png") as part:
        contact_sheet(video, prompts, given).save(part, format="PNG")
    if (folder / "story.json").exists():
        _remove_scenes_beyond(folder, len(prompts))
    write_json(folder / "storyboard.json", plan.to_mapping())
    digest = frames_digest(video)
    scenes = [
        {"prompt": prompt, "given": is_given, "video": name, "frames_sha256": frames_digest(scene)}
        for prompt, is_given, name, scene in zip(prompts, given, scene_names, video, strict=True)
    ]
    write_json(
        folder / "story.json",
        {
            "storyboard": plan.to_mapping(),
            "frames_sha256": digest,
            "scenes": scenes,
            **provenance,
            "versions": {
                "m2dit_jax": m2dit_jax.__version__,
                "jax": jax.__version__,
                "flax": flax.__version__,
            },
        },
    )
    return digest


def _filled_in(storyboard: Storyboard, defaults: SamplingSettings) -> SamplingSettings:
    """The model's defaults where the storyboard says nothing."""
    said = {name: getattr(storyboard, name) for name in vars(defaults)}
    return replace(defaults, **{name: value for name, value in said.items() if value is not None})


def _checked(problems: list[str], place: str, check: Callable[[], None]) -> bool:
    """Whether a check passes; else the problem is added."""
    try:
        check()
    except ValueError as error:
        problems.append(f"{place}: {error}")
        return False
    return True


def _is_own_video(video: Path, folder: Path) -> bool:
    # A link counts both as the link, which would be replaced, and as the file that it leads to.
    return any(
        path.parent == folder.resolve() and _OWN_VIDEO.fullmatch(path.name)
        for path in (video.parent.resolve() / video.name, video.resolve())
    )


def _check_prompts(storyboard: Storyboard, maker: StoryMaker) -> tuple[list[str], list[str]]:
    """A line for each prompt that the tokenizer cannot take, and for each that it changes."""
    prompts = {f"scenes[{i}].prompt": s.prompt for i, s in enumerate(storyboard.scenes)}
    prompts["negative_prompt"] = storyboard.negative_prompt
    problems, notes = [], []
    for field, prompt in prompts.items():
        try:
            note = maker.check_prompt(prompt)
        except ValueError as error:
            problems.append(f"{storyboard.place(field)}: {error}")
        else:
            notes += [f"{storyboard.place(field)}: {note}"] if note else []
    return problems, notes


def _video_names(num_scenes: int) -> list[str]:
    return ["story.mp4", *(f"scene_{number}.mp4" for number in range(1, num_scenes + 1))]


def _remove_scenes_beyond(folder: Path, num_scenes: int) -> None:
    """What a longer story left in the folder would look like scenes of this one."""
    for number in count(num_scenes + 1):
        path = folder / f"scene_{number}.mp4"
        if not path.exists():
            return
        path.unlink()
