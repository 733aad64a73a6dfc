"""The page of one story: index.html in its folder."""

from html import escape
from pathlib import Path

from m2dit_jax.report.parts import (
    attempts_list,
    badge,
    field_table,
    flat,
    metrics_table,
    picture,
    scene_costs,
    scene_settings,
    seconds,
    shown,
    thumbnails,
    video,
    write_document,
)
from m2dit_jax.report.record import SceneRecord, StoryRecord, read_record

PAGE = "index.html"


def write_page(folder: Path, target: Path | None = None) -> Path:
    """Writes the page of the story in a folder, by default into it, and returns its path.

    Videos are embedded as they are. Raises RecordError, a ValueError, if the folder holds no
    finished story, VideoError if one of its videos cannot be read.
    """
    target = target or folder / PAGE
    story = read_record(folder)
    prompt = story.scenes[0].prompt
    shots = [thumbnails(scene.video) for scene in story.scenes]
    pictures, frames = [uris for uris, _ in shots], [count for _, count in shots]
    title = f"Story of {len(story.scenes)} scene{'s' if len(story.scenes) > 1 else ''}"
    body = "\n".join(
        [
            f"<header><h1>{title}</h1><p class=note>{escape(_summary(story))}</p></header>",
            "<main>",
            _player(story, pictures, frames),
            *map(_scene, story.scenes, pictures),
            _settings(story),
            "</main>",
        ]
    )
    write_document(target, f"{title}: {prompt}", body)
    return target


def _summary(story: StoryRecord) -> str:
    counts = {
        status: sum(scene.status == status for scene in story.scenes)
        for status in ("given", "generated", "reused")
    }
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    if story.seconds is not None:
        parts.append(f"made in {seconds(story.seconds)}")
    return ", ".join([story.folder.absolute().name, *parts])


def _player(story: StoryRecord, pictures: list[list[str]], frames: list[int]) -> str:
    """The whole story, and a strip of its scenes to jump to.

    A jump leads to the middle of a scene's first frame, told as a share of the whole story: a
    player may round a time that is exactly between two frames either way.
    """
    total = sum(frames)
    buttons = []
    for i, scene in enumerate(story.scenes):
        start, end = sum(frames[:i]), sum(frames[: i + 1])
        buttons.append(
            f'<li><button type=button data-start="{(start + 0.5) / total:.6f}" '
            f'data-from="{start / total:.6f}" data-to="{end / total:.6f}" '
            f'title="{escape(scene.prompt)}" aria-label="Scene {scene.number}: '
            f'{escape(scene.prompt)}">{picture(pictures[i][len(pictures[i]) // 2])}'
            f'<span class="dot {scene.status}"></span>{scene.number}</button></li>'
        )
    return (
        '<section class=story aria-label="The whole story">'
        f"{video(story.video, 'The whole story', pictures[0][0], 'id=story')}"
        f'<p id=now aria-live=polite></p><ol class=strip aria-label="Scenes">'
        f"{''.join(buttons)}</ol></section>"
    )


def _scene(scene: SceneRecord, pictures: list[str]) -> str:
    strip = "".join(
        picture(uri, f"Scene {scene.number}, picture {i} of {len(pictures)}")
        for i, uri in enumerate(pictures, 1)
    )
    tables = field_table(scene_settings(scene) | scene_costs(scene))
    tables += metrics_table(scene.metrics)
    return (
        f'<article class=scene id="scene-{scene.number}">'
        f"{video(scene.video, f'Scene {scene.number}', pictures[0])}"
        f"<div><h2>Scene {scene.number} {badge(scene.status)}</h2>"
        f"<p class=prompt>{escape(scene.prompt)}</p>"
        f"<div class=thumbnails>{strip}</div>{attempts_list(scene.attempts)}"
        f"<div class=tables>{tables}</div></div></article>"
    )


def _settings(story: StoryRecord) -> str:
    sections = {
        "Settings of the story": story.settings,
        "Model and versions": story.origin,
        "Configuration": story.config,
    }
    return "".join(
        f"<details><summary>{title}</summary>"
        f"{field_table({name: shown(value) for name, value in flat(fields).items()})}</details>"
        for title, fields in sections.items()
        if fields
    )
