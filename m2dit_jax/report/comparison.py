"""A page of several stories side by side: a column for each, a row for each scene."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import escape

from m2dit_jax.report.document import badge, flat, shown, write_document
from m2dit_jax.report.record import SceneRecord, StoryRecord, read_record
from m2dit_jax.report.scenes import scene_costs, scene_settings, thumbnails


class _Row(NamedTuple):
    """A value of each story, "–" where it has none."""

    name: str
    cells: Sequence[str]
    differs: bool  # marked as such


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Writes the page to `target` and returns it.

    Raises RecordError, a ValueError, if a folder holds no finished story.
    """
    stories = [read_record(folder) for folder in folders]
    names = _names(folders)
    scenes = zip_longest(*(story.scenes for story in stories))
    settings = [
        flat({**story.settings, "model": story.origin, "config": story.config}) for story in stories
    ]
    write_document(
        target,
        "comparison.html",
        title=f"{len(stories)} stories side by side",
        names=names,
        stories=[
            _player(story, f"{name}, the whole story")
            for story, name in zip(stories, names, strict=True)
        ],
        scenes=[_scene(number, row, names) for number, row in enumerate(scenes, 1)],
        settings=_rows(settings),
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


def _scene(
    number: int, scenes: Sequence[SceneRecord | None], names: Sequence[str]
) -> dict[str, Any]:
    """The same scene of all stories: its videos, and what is known of it, differences marked."""
    cells = [
        None if scene is None else _player(scene, f"{name}, scene {number}")
        for scene, name in zip(scenes, names, strict=True)
    ]
    settings = [{} if scene is None else _settings(scene) for scene in scenes]
    measured = [
        {} if scene is None else scene_costs(scene) | dict(scene.metrics) for scene in scenes
    ]
    rows = _rows(settings) + _rows(measured, mark=False)
    return {"number": number, "cells": cells, "rows": rows}


def _settings(scene: SceneRecord) -> dict[str, Any]:
    return {
        "prompt": escape(scene.prompt),  # as it is, even where it is empty
        "status": badge(scene.status),
        **scene_settings(scene),
    }


def _rows(columns: Sequence[Mapping[str, Any]], mark: bool = True) -> list[_Row]:
    """A row for each name that any column has; where asked, those that differ are marked."""
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [shown(column[name]) if name in column else "–" for column in columns]
        rows.append(_Row(name, cells, mark and len(set(cells)) > 1))
    return rows
