"""A page of several stories side by side: a column for each, a row for each scene."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from m2dit_jax.report.parts import (
    attempts_list,
    badge,
    flat,
    named,
    scene_costs,
    scene_settings,
    seconds,
    shown,
    thumbnails,
    video,
    write_document,
)
from m2dit_jax.report.record import SceneRecord, StoryRecord, read_record


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Writes the page to `target` and returns it.

    Raises RecordError, a ValueError, if a folder holds no finished story.
    """
    stories = [read_record(folder) for folder in folders]
    names = _names(folders)
    scenes = zip_longest(*(story.scenes for story in stories))
    title = f"{len(stories)} stories side by side"
    body = "\n".join(
        [
            f"<header><h1>{title}</h1>{_CONTROLS}</header>",
            f'<main><div class="wide"><table class="comparison runs-{min(len(stories), 4)}">',
            f'<thead><tr><th scope="col"></th>{_cells(names, _column)}</tr></thead><tbody>',
            f'<tr><th scope="row">story</th>{_players(stories, names)}</tr>',
            *(_scene_rows(number, row, names) for number, row in enumerate(scenes, 1)),
            "</tbody></table></div>",
            _settings(stories, names),
            "</main>",
        ]
    )
    write_document(target, title, body)
    return target


_CONTROLS = (
    '<div class=controls role=group aria-label="All players"><button type=button id=play-all>'
    "Play all</button><button type=button id=restart-all>From the start</button>"
    "<label>position <input type=range id=position min=0 max=1 step=0.001 value=0></label></div>"
)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of the path as tells them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(path[-1:])} ({number})" for number, path in enumerate(parts, 1)]


def _cells(values: Sequence[Any], cell: Callable[[Any], str]) -> str:
    return "".join(map(cell, values))


def _column(name: str) -> str:
    return f'<th scope="col">{escape(name)}</th>'


def _players(stories: Sequence[StoryRecord], names: Sequence[str]) -> str:
    return "".join(
        f"<td>{_video(story.video, f'{name}, the whole story', 'story')}"
        f"{'' if story.seconds is None else f'<p class=note>{seconds(story.seconds)}</p>'}</td>"
        for story, name in zip(stories, names, strict=True)
    )


def _video(path: Path, label: str, group: str) -> str:
    return video(path, label, thumbnails(path)[0][0], f"data-group={group}")


def _scene_rows(number: int, scenes: Sequence[SceneRecord | None], names: Sequence[str]) -> str:
    """The same scene of all stories: its videos, and what is told of it, differences marked."""
    settings = [_settings_of(scene) for scene in scenes]
    measured = [_measured(scene) for scene in scenes]
    videos = "".join(
        "<td class=note>no such scene</td>"
        if scene is None
        else f"<td>{_video(scene.video, f'{name}, scene {number}', f'scene-{number}')}"
        f"{attempts_list(scene.attempts)}</td>"
        for scene, name in zip(scenes, names, strict=True)
    )
    return (
        f'<tr class=first id="scene-{number}"><th scope="row">scene {number}</th>{videos}</tr>'
        f"{_rows(settings)}{_rows(measured, mark=False)}"
    )


def _settings_of(scene: SceneRecord | None) -> dict[str, str]:
    if scene is None:
        return {}
    return {
        "prompt": escape(scene.prompt),
        "status": badge(scene.status),
        **scene_settings(scene),
    }


def _measured(scene: SceneRecord | None) -> dict[str, str]:
    if scene is None:
        return {}
    return scene_costs(scene) | {name: shown(value) for name, value in scene.metrics.items()}


def _rows(columns: Sequence[Mapping[str, str]], mark: bool = True) -> str:
    """A row for each name that any column has; where asked, those that differ are marked."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        values = [column.get(name, "–") for column in columns]
        differs = " class=differs" if mark and len(set(values)) > 1 else ""
        cells = "".join(f"<td>{value}</td>" for value in values)
        rows.append(f'<tr{differs}><th scope="row">{escape(named(name))}</th>{cells}</tr>')
    return "".join(rows)


def _settings(stories: Sequence[StoryRecord], names: Sequence[str]) -> str:
    columns = [
        {
            name: shown(value)
            for name, value in flat(
                {**story.settings, "model": story.origin, "config": story.config}
            ).items()
        }
        for story in stories
    ]
    return (
        "<h2>Settings</h2><label><input type=checkbox id=only-differing checked> only those that "
        'differ</label><div class="wide"><table class="settings" id=settings>'
        f'<thead><tr><th scope="col"></th>{_cells(names, _column)}</tr></thead>'
        f"<tbody>{_rows(columns)}</tbody></table></div>"
    )
