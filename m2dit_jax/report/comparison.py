"""A page of several stories side by side: a column for each, a row for each scene.

Scenes differ if their frames do; settings, if their values do. Nothing else is marked.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import escape

from m2dit_jax.report.document import badge, flat, number_spans, shown, write_document
from m2dit_jax.report.downloads import downloads
from m2dit_jax.report.record import SceneRecord, StoryRecord, read_record
from m2dit_jax.report.scenes import (
    common_settings,
    scene_costs,
    scene_neighbours,
    scene_settings,
    thumbnails,
)
from m2dit_jax.utils.media import frames_digest, video_frames

_NAMED = 6  # settings that differ, named at the top; of more only the number stands there
_Scenes = Sequence[SceneRecord | None]  # those with one number, of all stories


class _Row(NamedTuple):
    """A value of each story, "–" where it has none."""

    name: str
    cells: Sequence[str]
    differs: bool  # marked as such


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Writes the page to `target` and returns it.

    Raises RecordError, a ValueError, if a folder holds no finished story, VideoError if one of its
    videos cannot be read.
    """
    stories = [read_record(folder) for folder in folders]
    names = _names(folders)
    rows: list[_Scenes] = list(zip_longest(*(story.scenes for story in stories)))
    differ = [_frames_differ(row) for row in rows]
    common = [common_settings(story.scenes) for story in stories]
    once = {name for name in common[0] if all(name in others for others in common)}
    settings = _rows(
        [
            flat({**story.settings, **own, "model": story.origin, "config": story.config})
            for story, own in zip(stories, common, strict=True)
        ]
    )
    scenes = [
        _scene(number, row, names, once, differs)
        for number, (row, differs) in enumerate(zip(rows, differ, strict=True), 1)
    ]
    write_document(
        target,
        "comparison.html",
        title=f"{len(stories)} stories side by side",
        names=names,
        stories=[
            {**_player(story, f"{name}, the whole story"), "downloads": downloads(story, name)}
            for story, name in zip(stories, names, strict=True)
        ],
        scenes=scenes,
        settings=settings,
        verdict=_verdict(differ),
        differing=_differing(settings, scenes),
    )
    return target


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of the path as tells them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path[-1]} ({number})" for number, path in enumerate(parts, 1)]


def _player(record: StoryRecord | SceneRecord, label: str) -> dict[str, Any]:
    return {**vars(record), "label": label, "poster": thumbnails(record.video)[0][0]}


def _frames_differ(scenes: _Scenes) -> bool:
    """Whether a scene is not the same in all stories, by its frames."""
    there = [scene for scene in scenes if scene is not None]
    if len(there) < len(scenes):
        return True
    if all(scene.digest for scene in there):
        return len({scene.digest for scene in there}) > 1
    # Older files say nothing of the frames; what was written of them is the next best.
    return len({frames_digest(np.stack([*video_frames(s.video)])) for s in there}) > 1


def _verdict(differ: Sequence[bool]) -> str:
    """Which scenes differ, such as "Scenes 2 and 7 to 12 differ, the others are the same."."""
    numbers = [number for number, differs in enumerate(differ, 1) if differs]
    if not numbers:
        return "All scenes are the same." if len(differ) > 1 else "The scene is the same."
    if len(numbers) == len(differ):
        return "All scenes differ." if len(differ) > 1 else "The scene differs."
    verb = "Scene {} differs" if len(numbers) == 1 else "Scenes {} differ"
    left = len(differ) - len(numbers)
    others = "the other one is the same" if left == 1 else "the others are the same"
    return f"{verb.format(number_spans(numbers))}, {others}."


def _differing(settings: Sequence[_Row], scenes: Sequence[Mapping[str, Any]]) -> str:
    """Which settings differ, of the stories and of their scenes."""
    names = [row.name for row in settings if row.differs]
    own: dict[str, list[int]] = {}
    for scene in scenes:
        for row in scene["settings"]:
            if row.differs:
                own.setdefault(row.name, []).append(scene["number"])
    for name, numbers in own.items():
        names.append(f"{name} of scene{'s' if len(numbers) > 1 else ''} {number_spans(numbers)}")
    if not names:
        return "All settings are the same."
    if len(names) > _NAMED:
        return f"{len(names)} settings differ."
    return f"Settings that differ: {', '.join(name.replace('_', ' ') for name in names)}."


def _scene(
    number: int, scenes: _Scenes, names: Sequence[str], once: set[str], differs: bool
) -> dict[str, Any]:
    """The same scene of all stories: its videos, and what is known of it, differences marked.

    Settings of which there is `once` one for all scenes stand elsewhere.
    """
    cells = [
        None if scene is None else _player(scene, f"{name}, scene {number}")
        for scene, name in zip(scenes, names, strict=True)
    ]
    there = [{} if scene is None else {"prompt": escape(scene.prompt)} for scene in scenes]
    settings = [{} if scene is None else scene_settings(scene, once) for scene in scenes]
    ways = [{} if scene is None else scene_neighbours(scene) for scene in scenes]
    measured = [
        {}
        if scene is None
        else {"status": badge(scene.status), **scene_costs(scene), **scene.metrics}
        for scene in scenes
    ]
    own = [*_rows(there), *_rows(settings)]
    rows = [*own, *_rows(ways, mark=differs), *_rows(measured, mark=False)]
    return {
        **{"number": number, "cells": cells, "rows": rows, "differs": differs},
        "settings": own,
    }


def _rows(columns: Sequence[Mapping[str, Any]], mark: bool = True) -> list[_Row]:
    """A row for each name that any column has; where asked, those that differ are marked."""
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [shown(column[name]) if name in column else "–" for column in columns]
        rows.append(_Row(name, cells, mark and len(set(cells)) > 1))
    return rows
