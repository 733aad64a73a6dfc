"""The page of one story: index.html in its folder."""

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from m2dit_jax.report.document import seconds, write_document
from m2dit_jax.report.downloads import downloads
from m2dit_jax.report.record import STATUSES, StoryRecord, read_record
from m2dit_jax.report.scenes import (
    common_settings,
    scene_costs,
    scene_neighbours,
    scene_settings,
    thumbnails,
)

PAGE = "index.html"


def write_page(folder: Path, target: Path | None = None) -> Path:
    """Writes the page of the story in a folder, by default into it, and returns its path.

    Videos are embedded as they are. Raises RecordError, a ValueError, if the folder holds no
    finished story, VideoError if one of its videos cannot be read.
    """
    target = target or folder / PAGE
    story = read_record(folder)
    first_prompt = story.scenes[0].prompt
    heading = f"Story of {len(story.scenes)} scene{'s' if len(story.scenes) > 1 else ''}"
    write_document(
        target,
        "story.html",
        title=f"{heading}: {first_prompt}",
        heading=heading,
        summary=_summary(story),
        story=story,
        scenes=_scenes(story),
        common=common_settings(story.scenes),
        downloads=downloads(story, story.folder.absolute().name),
        settings={
            "Settings of the story": story.settings,
            "Model and versions": story.origin,
            "Configuration": story.config,
        },
    )
    return target


def _summary(story: StoryRecord) -> str:
    statuses = [scene.status for scene in story.scenes]
    parts = [f"{statuses.count(status)} {status}" for status in STATUSES if status in statuses]
    if story.seconds is not None:
        parts.append(f"made in {seconds(story.seconds)}")
    return ", ".join([story.folder.absolute().name, *parts])


def _scenes(story: StoryRecord) -> list[dict[str, Any]]:
    """The scenes with their pictures and their places in the whole story, as shares of it.

    A jump leads to the middle of a scene's first frame: a player may round a time that is exactly
    between two frames either way.
    """
    shots = [thumbnails(scene.video) for scene in story.scenes]
    places = list(accumulate((frames for _, frames in shots), initial=0))
    total, common = places[-1], common_settings(story.scenes)
    return [
        {
            "record": record,
            "pictures": uris,
            "fields": scene_settings(record, common)
            | scene_neighbours(record)
            | scene_costs(record),
            "start": start / total,
            "jump": (start + 0.5) / total,
            "end": end / total,
        }
        for record, (uris, _), (start, end) in zip(
            story.scenes, shots, pairwise(places), strict=True
        )
    ]
