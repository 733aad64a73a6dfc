"""Finished stories as videos on disk: which scenes they have, and what each was to show."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.evaluation.actors import ACTORS, ActorSheet, read_actors
from m2dit_jax.evaluation.extractors import STATISTICS_SIDE
from m2dit_jax.report.record import RecordError, StoryRecord, read_record
from m2dit_jax.stories.yaml import parse, read_text
from m2dit_jax.utils.media import VideoError, video_frames
from m2dit_jax.utils.options import wrong
from m2dit_jax.utils.video_file import open_clip

_SCENE = re.compile(r"scene_([0-9]+)\.mp4")


@dataclass(frozen=True)
class Board:
    """What a storyboard, finished or not, says of its scenes.

    `lengths` are their frames where it says so, `asked` has a flag for each meeting of two scenes:
    a cut is asked for there.
    """

    prompts: tuple[str, ...]
    lengths: tuple[int | None, ...]
    asked: tuple[bool, ...]


@dataclass(frozen=True)
class VideoStory:
    """A story's scenes in their order: a video for each, or one film of them all.

    `actors` are None where nobody said who they are; `lengths` are the frames of a film's scenes.
    """

    name: str
    videos: tuple[Path, ...]
    prompts: tuple[str, ...]
    actors: tuple[frozenset[str], ...] | None
    asked: tuple[bool, ...] = ()
    lengths: tuple[int | None, ...] | None = None
    sheet: ActorSheet | None = None

    def same_actor(self, i: int, j: int) -> bool:
        """Whether someone is in both scenes."""
        return self.actors is not None and bool(self.actors[i] & self.actors[j])


def find_stories(
    path: Path, storyboard: Path | None = None, actors: Path | None = None
) -> tuple[list[VideoStory], list[str]]:
    """The stories of a folder, and what is wrong with those that cannot be taken.

    With a storyboard the folder holds its scenes: scene_1.mp4, scene_2.mp4 ..., or else as many
    other videos, in the order of their names; or the path is one film of all scenes. Without, the
    folder is one that `sample` wrote, or holds such. Actors stand in actors.json in a story's
    folder, or in the file that is named. Raises ValueError if there is no story at all.
    """
    if path.is_file():
        return [_film(path, storyboard, actors)], []
    if not path.is_dir():
        raise ValueError(f"--videos={path}: no such folder, nor a film")
    if storyboard is not None:
        return [_with_board(path, read_board(storyboard), storyboard, actors)], []
    own = [path] if (path / "story.json").is_file() else []
    folders = own or sorted(found.parent for found in path.glob("*/story.json"))
    if actors is not None and len(folders) > 1:
        raise ValueError(
            f"--actors={actors}: found {len(folders)} stories, needs {ACTORS} in each one's folder"
        )
    stories, problems = [], []
    for folder in folders:
        try:
            stories.append(_finished(folder, read_record(folder), actors))
        except (RecordError, ValueError) as error:
            problems.append(str(error))
    if not stories:
        told = "".join(f"; {problem}" for problem in problems)
        raise ValueError(
            f"--videos={path}: found no story, needs a folder that `sample` wrote, a folder of "
            f"such, or --storyboard with the prompts of its scenes{told}"
        )
    return stories, problems


def read_board(path: Path) -> Board:
    """A storyboard's prompts, lengths and cuts. Raises ValueError if there are no prompts."""
    tree = parse(read_text(path), str(path))
    scenes = _field(tree, "scenes")
    items = scenes.value if scenes is not None and isinstance(scenes.value, list) else []
    prompts = [_field(item, "prompt") for item in items]
    if not prompts or not all(p is not None and isinstance(p.value, str) for p in prompts):
        raise ValueError(f"{path}: found no list of scenes with a prompt each")
    usual = _frames(_field(tree, "frames"), path)
    lengths = tuple(_frames(_field(item, "frames"), path) or usual for item in items)
    said = [_cut(_field(item, "cut"), path) for item in items]
    return Board(
        tuple(p.value.strip() for p in prompts if p is not None), lengths, asked_between(said)
    )


def asked_between(cuts: Sequence[bool | None]) -> tuple[bool, ...]:
    """Where scenes meet, whether a cut is asked for, from the field `cut` of each; None is unsaid.

    If any scene has `cut: true`, cuts are asked for before such scenes alone; else wherever scenes
    meet, but not before those with `cut: false`.
    """
    if any(cut is True for cut in cuts):
        return tuple(cut is True for cut in cuts[1:])
    return tuple(cut is not False for cut in cuts[1:])


def read_scenes(
    story: VideoStory, side: int = STATISTICS_SIDE
) -> tuple[Iterable[UInt8[np.ndarray, "_F _H _W 3"]], str]:
    """The frames of each scene, one after another, and a note on how a film was divided.

    They are scaled to a short side of `side` pixels where it is longer. Raises VideoError if a
    video cannot be read or a scene has fewer than two frames.
    """
    if story.lengths is None:
        return (read_scene(video, side) for video in story.videos), ""
    frames = read_scene(story.videos[0], side)
    starts, note = _scene_starts(len(frames), story.lengths)
    scenes = np.split(frames, starts)
    if min(map(len, scenes)) < 2:
        raise VideoError(
            f"{story.videos[0]}: has {len(frames)} frames, needs at least 2 for each of "
            f"{len(scenes)} scenes"
        )
    return scenes, note


def read_scene(path: Path, side: int = STATISTICS_SIDE) -> UInt8[np.ndarray, "F H W 3"]:
    """All frames, scaled to a short side of `side` pixels where it is longer.

    Raises VideoError if it cannot be read or has fewer than two frames.
    """
    frames = [shrunk(frame, side) for frame in video_frames(path)]
    if len(frames) < 2:
        raise VideoError(f"{path}: has {len(frames)} frames, needs at least 2")
    return np.stack(frames)


def shrunk(frame: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a short side of `side` pixels, if it is longer."""
    factor = min(frame.shape[:2]) / side
    if factor <= 1:
        return frame
    size = (round(frame.shape[1] / factor), round(frame.shape[0] / factor))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def frame_rate(path: Path) -> float:
    """Frames per second, on average. Raises VideoError if the file does not say."""
    container, stream = open_clip(path)
    with container:
        rate = stream.average_rate
    if not rate:
        raise VideoError(f"{path}: says no frame rate, needs a tolerance in frames")
    return float(rate)


def _scene_starts(frames: int, lengths: Sequence[int | None]) -> tuple[list[int], str]:
    """Frames at which the second and later scenes of a film begin, and how they were found."""
    told = [length for length in lengths if length is not None]
    if len(told) < len(lengths):
        shares = [1] * len(lengths)
        note = "the storyboard does not say how long each scene is: all counted as equally long"
    else:
        shares = told
        note = "" if sum(told) == frames else f"scenes of {sum(told)} frames scaled to {frames}"
    ends = np.cumsum(shares)[:-1] * frames / sum(shares)
    return [int(end + 0.5) for end in ends], note


def _film(path: Path, storyboard: Path | None, actors: Path | None) -> VideoStory:
    if storyboard is None:
        raise ValueError(f"--videos={path}: of one film, needs --storyboard with its scenes")
    board = read_board(storyboard)
    return _story(path.stem, (path,), board, path.parent, actors, board.lengths)


def _with_board(folder: Path, board: Board, storyboard: Path, actors: Path | None) -> VideoStory:
    numbered = {int(m[1]): p for p in folder.iterdir() if (m := _SCENE.fullmatch(p.name))}
    videos = [numbered[number] for number in sorted(numbered)] or sorted(folder.glob("*.mp4"))
    if len(videos) != len(board.prompts):
        raise ValueError(
            f"--videos={folder}: found {len(videos)} videos for the {len(board.prompts)} scenes of "
            f"{storyboard}"
        )
    return _story(folder.absolute().name, tuple(videos), board, folder, actors)


def _finished(folder: Path, record: StoryRecord, actors: Path | None) -> VideoStory:
    cuts = [scene.cut or None for scene in record.scenes]
    prompts = tuple(scene.prompt for scene in record.scenes)
    board = Board(prompts, (None,) * len(prompts), asked_between(cuts))
    return _story(folder.name, tuple(scene.video for scene in record.scenes), board, folder, actors)


def _story(
    name: str,
    videos: tuple[Path, ...],
    board: Board,
    folder: Path,
    actors: Path | None,
    lengths: tuple[int | None, ...] | None = None,
) -> VideoStory:
    path = actors or folder / ACTORS
    scenes = len(board.prompts)
    sheet = read_actors(path, scenes) if actors or path.is_file() else None
    names = None if sheet is None else sheet.in_scenes(scenes)
    return VideoStory(name, videos, board.prompts, names, board.asked, lengths, sheet)


def _frames(item: Any, path: Path) -> int | None:
    if item is None or item.value is None:
        return None
    if type(item.value) is not int or item.value < 1:
        raise ValueError(f"{path}:{item.line}: frames: {wrong(item.value, 'a whole number')}")
    return item.value


def _cut(item: Any, path: Path) -> bool | None:
    if item is None or item.value is None:
        return None
    if not isinstance(item.value, bool):
        raise ValueError(f"{path}:{item.line}: cut: {wrong(item.value, 'true or false')}")
    return item.value


def _field(tree: Any, name: str) -> Any:
    """The item under a key, None if there is none."""
    pairs = tree.value if isinstance(tree.value, tuple) else ()
    return next((value for key, value in pairs if key.value == name), None)
