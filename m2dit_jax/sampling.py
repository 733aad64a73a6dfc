"""A storyboard and a model in, a folder of videos out; what `python -m m2dit_jax.sample` does.

Everything up to `plan_story` only checks and prepares, and needs no weights, so that whatever is
wrong with the user's input comes out within seconds.
"""

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
    contact_sheet,
    frames_digest,
    read_clip,
    whole_file,
    write_gif,
    write_mp4,
)
from m2dit_jax.recipe import Params, Recipe
from m2dit_jax.story_sampler import StorySampler
from m2dit_jax.storyboard import (
    Storyboard,
    StoryboardError,
    storyboard_from_mapping,
    storyboard_to_mapping,
)


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


def override(storyboard: Storyboard, **fields: Any) -> Storyboard:
    """The storyboard with those of the fields that are not None.

    Raises StoryboardError for values that a file could not have either.
    """
    changed = {name: value for name, value in fields.items() if value is not None}
    return storyboard_from_mapping(storyboard_to_mapping(storyboard) | changed, source="flags")


def check_output(storyboard: Storyboard, folder: Path) -> None:
    """Raises StoryboardError if a given clip would be overwritten by the story's own files."""
    written = {(folder / name).resolve() for name in _video_names(len(storyboard.scenes))}
    problems = [
        f"{scene.video} is a given clip, but --output={folder} would overwrite it: "
        "needs another folder"
        for scene in storyboard.scenes
        if scene.video is not None and scene.video.resolve() in written
    ]
    if problems:
        raise StoryboardError("\n".join(problems))


def plan_story(storyboard: Storyboard, recipe: Recipe, source: str) -> StoryPlan:
    """Checks the storyboard against the model and reads its clips; `source` names it in errors.

    Raises StoryboardError for prompts that the model's tokenizer cannot take, VideoError for a clip
    that is too short or damaged, and ValueError for more steps than the model's schedule has.
    """
    _check_prompts(storyboard, recipe, source)
    defaults, data = recipe.config.sample, recipe.config.data
    steps = defaults.steps if storyboard.steps is None else storyboard.steps
    scale = storyboard.guidance_scale
    black = np.zeros((data.frames, data.size, data.size, 3), np.uint8)
    return StoryPlan(
        storyboard,
        steps=steps,
        guidance_scale=float(defaults.guidance_scale if scale is None else scale),
        fps=float(defaults.fps if storyboard.fps is None else storyboard.fps),
        clips=np.stack(
            [
                black
                if scene.video is None
                else read_clip(scene.video, data.frames, data.size, data.size)
                for scene in storyboard.scenes
            ]
        ),
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


def _check_prompts(storyboard: Storyboard, recipe: Recipe, source: str) -> None:
    """Raises StoryboardError with a line for each prompt that the tokenizer cannot take."""
    prompts = {f"scenes[{i}].prompt": s.prompt for i, s in enumerate(storyboard.scenes)}
    prompts["negative_prompt"] = storyboard.negative_prompt
    problems = []
    for field, prompt in prompts.items():
        try:
            recipe.tokenize([prompt])
        except ValueError as error:
            problems.append(f"{source}: {field}: {error}")
    if problems:
        raise StoryboardError("\n".join(problems))


def _video_names(num_scenes: int) -> list[str]:
    return ["story.mp4", *(f"scene_{number}.mp4" for number in range(1, num_scenes + 1))]


def _remove_scenes_beyond(folder: Path, num_scenes: int) -> None:
    """What a longer story left in the folder would look like scenes of this one."""
    for number in count(num_scenes + 1):
        path = folder / f"scene_{number}.mp4"
        if not path.exists():
            return
        path.unlink()
