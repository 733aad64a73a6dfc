"""The folder of a story: its videos, pictures and records, written scene after scene."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

import m2dit_jax
from m2dit_jax.report.sheets import contact_sheet
from m2dit_jax.stories.inputs import own_inputs
from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.walk import Outcome
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.files import atomic_write, write_json
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.utils.media import enlargement, frames_digest, write_gif, write_mp4

SCENES = "scenes"  # the folder of what the scenes are made of
# Pixels of all frames, as they are written, up to which there is a GIF: it is made in memory.
GIF_MOST = 60_000_000

# What is written here or, of scenes of an older and longer story, removed.
_OWN = re.compile(r"story\.(mp4|gif)|scene_[0-9]+\.mp4|contact_sheet\.png")

Frames = Callable[[int], UInt8[np.ndarray, "F H W 3"]]  # of a scene, read from disk


def check_output(storyboard: Storyboard, folder: Path) -> None:
    """Raises StoryboardError if a story's files cannot lie in the folder.

    That is for one that is a file, and for given clips or pictures that could be overwritten or
    removed there.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise StoryboardError(f"--output={folder}: {there} is a file, needs a folder")
    problems = [
        f"{storyboard.place(f'scenes[{i}].{name}')}: {file} is a given {what}, but its name in "
        f"--output={folder} is one of a story's own files: needs another folder"
        for i, scene in enumerate(storyboard.scenes)
        for name, what, file in (("video", "clip", scene.video), ("image", "picture", scene.image))
        if isinstance(file, Path) and _is_own(file, folder)
    ]
    if problems:
        raise StoryboardError("\n".join(problems))


@contextmanager
def only_story_in(folder: Path) -> Iterator[None]:
    """A context that makes a story's folder and keeps other processes from making one there.

    Raises ValueError, naming the process, if one does.
    """
    (folder / SCENES).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / SCENES / ".lock"))
        except InUse as error:
            raise ValueError(
                f"{folder}: another process makes a story there ({error.holder}); needs another "
                "folder, or to wait for it"
            ) from error
        yield


def write_scene(
    folder: Path, scene: int, frames: UInt8[np.ndarray, "F H W 3"], settings: StoryOptions
) -> None:
    """Writes a scene's video, with the rate and the quality of the settings."""
    write_mp4(folder / scene_name(scene), frames, settings.fps, settings.video_quality)


def write_story(
    folder: Path,
    plan: StoryPlan,
    outcomes: Mapping[int, Outcome],
    frames: Frames,
    store: SceneStore,
    about: dict[str, Any],
) -> str:
    """Writes all files of a story but the generated scenes' videos, and returns its digest.

    Each file replaces an older one only when it is whole; story.json, which names them, comes last.
    `about` is what it says of the model and the whole run. No more than a scene is in memory.
    """
    story, settings, scenes = plan.storyboard, plan.settings, range(len(plan.storyboard.scenes))
    for scene in scenes:
        if story.given[scene]:
            write_scene(folder, scene, frames(scene), settings)
    shown = scenes[story.references :]
    images = chain.from_iterable(map(frames, shown))
    write_mp4(folder / "story.mp4", images, settings.fps, settings.video_quality)
    _write_gif(folder / "story.gif", plan, shown, frames)
    prompts = [scene.prompt for scene in story.scenes]
    with atomic_write(folder / "contact_sheet.png") as part:
        contact_sheet(map(frames, scenes), prompts, story.given).save(part, format="PNG")
    if (folder / "story.json").exists():
        _remove_scenes_beyond(folder, len(scenes))
    copies = {scene: folder / scene_name(scene) for scene in scenes}
    for scene, own in enumerate(story.scenes):
        if own.image is not None and not isinstance(own.image, Path):
            copies[scene] = folder / f"scene_{scene + 1}_image.png"
            with atomic_write(copies[scene]) as part:
                Image.fromarray(own.image).save(part, format="PNG")
    mapping = plan.to_mapping(copies)
    write_json(folder / "storyboard.json", mapping)
    records = [_record(plan, scene, outcomes[scene], frames, store) for scene in scenes]
    digest = story_digest([record["frames_sha256"] for record in records])
    versions = {
        "m2dit_jax": m2dit_jax.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
    }
    write_json(
        folder / "story.json",
        {
            "storyboard": mapping,
            "frames_sha256": digest,
            "scenes": records,
            **about,
            "versions": versions,
        },
    )
    return digest


def story_digest(scenes: Sequence[str]) -> str:
    """SHA-256 of a story's frames, from those of its scenes."""
    return hashlib.sha256("".join(scenes).encode()).hexdigest()


def scene_name(scene: int) -> str:
    """File name of a scene's video."""
    return f"scene_{scene + 1}.mp4"


def _record(
    plan: StoryPlan, scene: int, outcome: Outcome, frames: Frames, store: SceneStore
) -> dict[str, Any]:
    """A scene's part of story.json; `report.record` says what the fields mean."""
    own = plan.storyboard.scenes[scene]
    record: dict[str, Any] = {
        "prompt": own.prompt,
        "given": outcome.status == "given",
        "status": outcome.status,
        "video": scene_name(scene),
        "frames": plan.frames(scene),
        "frames_sha256": frames_digest(frames(scene)),
    }
    if outcome.group is None:
        return record
    made = store.about(outcome.identity.key) or {}
    group, made_by = outcome.group, own_inputs(outcome.identity.inputs)
    return record | {
        "key": outcome.identity.key,
        "seed": made_by["seed"][0],
        **({"take": made_by["take"]} if "take" in made_by else {}),
        "guidance_scale": made_by["guidance_scale"],
        "negative_prompt": made_by["negative_prompt"],
        "context": [number + 1 for number in group.context],
        "made_with": [number + 1 for number in group.new if number != scene],
        **{name: made[name] for name in ("seconds", "steps", "evaluations") if name in made},
        **_attempts(plan, outcome),
    }


def _attempts(plan: StoryPlan, outcome: Outcome) -> dict[str, Any]:
    if not plan.checks:
        return {}
    attempts = [
        {
            "passed": attempt.verdict.passed,
            "failures": list(attempt.verdict.failures),
            "metrics": dict(attempt.verdict.metrics),
        }
        for attempt in outcome.attempts
    ]
    return {"attempts": attempts, "metrics": attempts[-1]["metrics"], "passed": not outcome.failed}


def _write_gif(path: Path, plan: StoryPlan, scenes: range, frames: Frames) -> None:
    """Writes the GIF of a small story; an older one must not stay beside a new story."""
    settings = plan.settings
    pixels = settings.height * settings.width * enlargement(settings.height, settings.width) ** 2
    if sum(map(plan.frames, scenes)) * pixels > GIF_MOST:
        path.unlink(missing_ok=True)
        return
    images: Iterator[UInt8[np.ndarray, "H W 3"]] = chain.from_iterable(map(frames, scenes))
    write_gif(path, np.stack(list(images)), settings.fps)


def _is_own(file: Path, folder: Path) -> bool:
    # A link counts both as the link, which would be replaced, and as the file that it leads to.
    return any(
        path.parent == folder.resolve() and _OWN.fullmatch(path.name)
        for path in (file.parent.resolve() / file.name, file.resolve())
    )


def _remove_scenes_beyond(folder: Path, num_scenes: int) -> None:
    """Removes videos of a longer story, which would look like scenes of this one."""
    for number in count(num_scenes):
        path = folder / scene_name(number)
        if not path.exists():
            return
        path.unlink()
