"""Finished stories as videos on disk: which scenes they have, and what each was to show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.report.record import RecordError, read_record
from m2dit_jax.stories.yaml import parse, read_text
from m2dit_jax.utils.files import read_json
from m2dit_jax.utils.media import VideoError, video_frames

ACTORS = "actors.json"  # in a story's folder: for each scene a list of who is in it
_SIDE = 128  # pixels to which the short side of larger pictures is scaled
_SCENE = re.compile(r"scene_([0-9]+)\.mp4")


@dataclass(frozen=True)
class VideoStory:
    """A story's scenes in their order. `actors` are None where nobody said who they are."""

    name: str
    videos: tuple[Path, ...]
    prompts: tuple[str, ...]
    actors: tuple[frozenset[str], ...] | None

    def same_actor(self, i: int, j: int) -> bool:
        """Whether someone is in both scenes."""
        return self.actors is not None and bool(self.actors[i] & self.actors[j])


def find_stories(
    folder: Path, storyboard: Path | None = None
) -> tuple[list[VideoStory], list[str]]:
    """The stories of a folder, and what is wrong with those that cannot be taken.

    With a storyboard the folder holds its scenes: scene_1.mp4, scene_2.mp4 ..., or else as many
    other videos, in the order of their names. Without, it is one that `sample` wrote, or holds
    such. Raises ValueError if there is no story at all.
    """
    if not folder.is_dir():
        raise ValueError(f"--videos={folder}: no such folder")
    if storyboard is not None:
        return [_with_prompts(folder, read_prompts(storyboard), storyboard)], []
    own = [folder] if (folder / "story.json").is_file() else []
    folders = own or sorted(path.parent for path in folder.glob("*/story.json"))
    stories, problems = [], []
    for path in folders:
        try:
            record = read_record(path)
            videos = tuple(scene.video for scene in record.scenes)
            prompts = tuple(scene.prompt for scene in record.scenes)
            stories.append(VideoStory(path.name, videos, prompts, _read_actors(path, len(videos))))
        except (RecordError, ValueError) as error:
            problems.append(str(error))
    if not stories:
        told = "".join(f"; {problem}" for problem in problems)
        raise ValueError(
            f"--videos={folder}: found no story, needs a folder that `sample` wrote, a folder of "
            f"such, or --storyboard with the prompts of its scenes{told}"
        )
    return stories, problems


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a storyboard, finished or not. Raises ValueError if there are none."""
    tree = parse(read_text(path), str(path))
    scenes = _field(tree, "scenes")
    items = scenes.value if scenes is not None and isinstance(scenes.value, list) else []
    prompts = [_field(item, "prompt") for item in items]
    if not prompts or not all(p is not None and isinstance(p.value, str) for p in prompts):
        raise ValueError(f"{path}: found no list of scenes with a prompt each")
    return tuple(p.value.strip() for p in prompts if p is not None)


def read_scene(path: Path) -> UInt8[np.ndarray, "F H W 3"]:
    """All frames, scaled to a short side of 128 pixels where it is longer.

    Raises VideoError if it cannot be read or has fewer than two frames.
    """
    frames = [_small(frame) for frame in video_frames(path)]
    if len(frames) < 2:
        raise VideoError(f"{path}: has {len(frames)} frames, needs at least 2")
    return np.stack(frames)


def _with_prompts(folder: Path, prompts: Sequence[str], storyboard: Path) -> VideoStory:
    numbered = {int(m[1]): p for p in folder.iterdir() if (m := _SCENE.fullmatch(p.name))}
    videos = [numbered[number] for number in sorted(numbered)] or sorted(folder.glob("*.mp4"))
    if len(videos) != len(prompts):
        raise ValueError(
            f"--videos={folder}: found {len(videos)} videos for the {len(prompts)} scenes of "
            f"{storyboard}"
        )
    actors = _read_actors(folder, len(videos))
    return VideoStory(folder.absolute().name, tuple(videos), tuple(prompts), actors)


def _read_actors(folder: Path, scenes: int) -> tuple[frozenset[str], ...] | None:
    path = folder / ACTORS
    if not path.is_file():
        return None
    try:
        lists = read_json(path)
        found = tuple(frozenset(str(name) for name in names) for names in lists)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a list of lists of names ({error})") from error
    if len(found) != scenes:
        raise ValueError(f"{path}: found {len(found)} lists for {scenes} scenes")
    return found


def _field(tree: Any, name: str) -> Any:
    """The item under a key, None if there is none."""
    pairs = tree.value if isinstance(tree.value, tuple) else ()
    return next((value for key, value in pairs if key.value == name), None)


def _small(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    factor = min(frame.shape[:2]) / _SIDE
    if factor <= 1:
        return frame
    size = (round(frame.shape[1] / factor), round(frame.shape[0] / factor))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
