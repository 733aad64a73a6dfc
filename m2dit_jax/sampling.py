"""A storyboard and a model in, a folder of videos out; what `python -m m2dit_jax.sample` does.

Everything up to `plan_story` only checks and prepares, and needs no weights, so that whatever is
wrong with the user's input comes out within seconds.
"""

import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

import m2dit_jax
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
from m2dit_jax.recipe import Params, Recipe
from m2dit_jax.story_sampler import StorySampler
from m2dit_jax.storyboard import Storyboard, StoryboardError, storyboard_to_mapping

# The videos that write_story writes or, as scenes of an older and longer story, removes.
_OWN_VIDEO = re.compile(r"story\.(mp4|gif)|scene_[0-9]+\.mp4")


@dataclass(frozen=True)
class StoryPlan:
    """A checked storyboard with what it leaves to the config, and its given clips.

    `clips` have the model's frames and size; they are black for the scenes to generate.
    """

    storyboard: Storyboard
    steps: int
    guidance_scale: float
    fps: float
    clips: UInt8[np.ndarray, "S F H W 3"]
    sampler: StorySampler

    def to_mapping(self) -> dict[str, Any]:
        """The content of a storyboard file that leaves nothing to the config."""
        return storyboard_to_mapping(self.storyboard) | {
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "fps": self.fps,
        }


@dataclass(frozen=True)
class Provenance:
    """Where the weights of a story came from."""

    checkpoint: Path
    step: int
    config: ConfigDict


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


def plan_story(storyboard: Storyboard, recipe: Recipe) -> StoryPlan:
    """Checks the storyboard against the model and reads its clips.

    Raises StoryboardError with every problem: prompts that the model's tokenizer cannot take, clips
    that are too short or damaged, more steps than the model's schedule has.
    """
    defaults, data = recipe.config.sample, recipe.config.data
    problems = _prompt_problems(storyboard, recipe)

    clips = [np.zeros((data.frames, data.size, data.size, 3), np.uint8)] * len(storyboard.scenes)
    for i, scene in enumerate(storyboard.scenes):
        if scene.video is not None:
            try:
                clips[i] = read_clip(scene.video, data.frames, data.size, data.size)
            except VideoError as error:
                problems.append(f"{storyboard.place(f'scenes[{i}].video')}: {error}")

    if storyboard.steps is None:
        steps, place = defaults.steps, "config.sample.steps"
    else:
        steps, place = storyboard.steps, storyboard.place("steps")
    try:
        recipe.schedule.check_steps(steps)
    except ValueError as error:
        problems.append(f"{place}: {error}")

    if problems:
        raise StoryboardError("\n".join(problems))
    scale = storyboard.guidance_scale
    return StoryPlan(
        storyboard,
        steps=steps,
        guidance_scale=float(defaults.guidance_scale if scale is None else scale),
        fps=float(defaults.fps if storyboard.fps is None else storyboard.fps),
        clips=np.stack(clips),
        sampler=StorySampler(recipe, steps),
    )


def sample_story(plan: StoryPlan, params: Params) -> UInt8[np.ndarray, "S F H W 3"]:
    """All scenes of the story; the given ones are the plan's clips, unchanged."""
    return plan.sampler.sample(
        params,
        jax.random.key(plan.storyboard.seed)[None],
        plan.clips[None],
        np.array([plan.storyboard.given]),
        [[scene.prompt for scene in plan.storyboard.scenes]],
        plan.guidance_scale,
        plan.storyboard.negative_prompt,
    )[0]


def write_story(
    folder: Path, plan: StoryPlan, video: UInt8[np.ndarray, "S F H W 3"], provenance: Provenance
) -> str:
    """Writes all files of a story into the folder and returns the digest of its frames.

    Each file replaces an older one only when it is whole; story.json, which names them, comes last.
    """
    given = plan.storyboard.given
    prompts = [scene.prompt for scene in plan.storyboard.scenes]
    story_name, *scene_names = _video_names(len(prompts))
    frames = video.reshape(-1, *video.shape[2:])
    write_mp4(folder / story_name, frames, plan.fps)
    write_gif(folder / "story.gif", frames, plan.fps)
    for name, scene in zip(scene_names, video, strict=True):
        write_mp4(folder / name, scene, plan.fps)
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
            "checkpoint": {"path": str(provenance.checkpoint.absolute()), "step": provenance.step},
            "config": provenance.config.to_dict(),
            "versions": {
                "m2dit_jax": m2dit_jax.__version__,
                "jax": jax.__version__,
                "flax": flax.__version__,
            },
        },
    )
    return digest


def _is_own_video(video: Path, folder: Path) -> bool:
    # A link counts both as the link, which would be replaced, and as the file that it leads to.
    return any(
        path.parent == folder.resolve() and _OWN_VIDEO.fullmatch(path.name)
        for path in (video.parent.resolve() / video.name, video.resolve())
    )


def _prompt_problems(storyboard: Storyboard, recipe: Recipe) -> list[str]:
    """A line for each prompt that the tokenizer cannot take."""
    prompts = {f"scenes[{i}].prompt": s.prompt for i, s in enumerate(storyboard.scenes)}
    prompts["negative_prompt"] = storyboard.negative_prompt
    problems = []
    for field, prompt in prompts.items():
        try:
            recipe.tokenize([prompt])
        except ValueError as error:
            problems.append(f"{storyboard.place(field)}: {error}")
    return problems


def _video_names(num_scenes: int) -> list[str]:
    return ["story.mp4", *(f"scene_{number}.mp4" for number in range(1, num_scenes + 1))]


def _remove_scenes_beyond(folder: Path, num_scenes: int) -> None:
    """What a longer story left in the folder would look like scenes of this one."""
    for number in count(num_scenes + 1):
        path = folder / f"scene_{number}.mp4"
        if not path.exists():
            return
        path.unlink()
