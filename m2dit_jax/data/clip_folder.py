"""Stories of a folder of videos with captions beside them: fox_1.mp4 and fox_1.txt.

The videos that lie in one folder are the scenes of one story, in the order of their names, in which
clip_2 comes before clip_10; every folder below it that holds videos is another story.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from m2dit_jax.data.manifest import Manifest, ManifestError, to_jsonl, write_jsonl
from m2dit_jax.data.story_table import ClipScene, ManifestStory
from m2dit_jax.utils.options import problem_lines

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")


def read_clip_folder(folder: Path) -> Manifest:
    """The stories of a folder; whether its videos can be decoded is not looked at.

    Raises ManifestError if it holds no video, and naming each that has no caption.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; needs one of videos with captions")
    problems: list[str] = []
    stories = []
    for place in (folder, *sorted(filter(Path.is_dir, folder.rglob("*")), key=_in_order)):
        scenes = tuple(_scenes(place, problems))
        if scenes:
            inner = place.relative_to(folder).as_posix()
            name = folder.resolve().name if inner == "." else inner
            stories.append(ManifestStory(name, scenes))
    if problems:
        raise ManifestError(problem_lines(problems))
    if not stories:
        raise ManifestError(f"{folder}: holds no video, needs some of {', '.join(SUFFIXES)}")
    return Manifest(tuple(stories), folder, "stories")


def manifest_beside(output: Path, clips: Path) -> Path:
    """Writes the manifest of a folder of clips beside a dataset and returns its path.

    Raises ValueError if another manifest has that name.
    """
    manifest, path = read_clip_folder(clips), output.parent / f"{output.name}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(manifest, path, clips)
    elif path.read_text(encoding="utf-8", errors="replace") != to_jsonl(manifest, clips):
        raise ValueError(
            f"{path}: lists other clips or captions than {clips} has now; needs another --output, "
            "or that file and the dataset removed"
        )
    return path


def tell_long_captions(clips: Path, text_length: int) -> None:
    """Says how many captions a model of pixels, which reads bytes, would cut off."""
    stories = read_clip_folder(clips).stories
    lengths = [len(scene.caption.encode()) + 1 for story in stories for scene in story.scenes]
    if count := sum(length > text_length for length in lengths):
        print(
            f"{count} captions are longer than the {text_length - 1} bytes that the model reads "
            f"and are cut there; for all of them --config.data.text_length={max(lengths)}",
            file=sys.stderr,
        )


def _scenes(folder: Path, problems: list[str]) -> Iterator[ClipScene]:
    for video in sorted(folder.iterdir(), key=_in_order):
        if video.suffix.lower() not in SUFFIXES or video.name.startswith("."):
            continue
        try:
            yield ClipScene(video.absolute(), _caption(video), None, None, {}, str(video))
        except ValueError as error:
            problems.append(str(error))


def _caption(video: Path) -> str:
    """The text beside a video, on one line. Raises ValueError if there is none."""
    path = video.with_suffix(".txt")
    try:
        caption = " ".join(path.read_text(encoding="utf-8-sig").split())
    except OSError as error:
        raise ValueError(f"{video}: needs its caption in {path.name} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8, needs UTF-8 text") from error
    if not caption:
        raise ValueError(f"{path}: is empty, needs what {video.name} shows")
    return caption


def _in_order(path: Path) -> list[tuple[int, str]]:
    """A key by which numbers within names are sorted as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
