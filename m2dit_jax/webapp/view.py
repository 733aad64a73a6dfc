"""The part of the page that shows a story while it is made, and after."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from m2dit_jax.report.story import PAGE
from m2dit_jax.webapp.board import problems
from m2dit_jax.webapp.runs import Run

_DOWNLOADS = {"story.mp4": "video", "storyboard.json": "storyboard", PAGE: "page"}


def file_address(path: Path) -> str:
    """Address of a file on the server, with its age, so that a browser shows no older one."""
    return f"/gradio_api/file={quote(str(path))}?v={path.stat().st_mtime_ns}"


def story_view(run: Run) -> str:
    """A story's state and its scenes, those that are finished as players."""
    progress = run.progress
    finished = set(progress.finished) if progress else set()
    if run.state == "done":
        finished = set(range(len(run.storyboard.scenes)))
    at_work = set(progress.at_work) if progress and run.state == "running" else set()
    unfinished = "not made" if run.ended.is_set() else "waiting"
    cards = [
        _card(
            run.folder,
            number,
            scene.prompt,
            number in finished,
            "at work" if number in at_work else unfinished,
        )
        for number, scene in enumerate(run.storyboard.scenes)
    ]
    whole = _whole(run.folder) if run.state == "done" else ""
    notes = problem_list(problems("\n".join(progress.notes))) if progress else ""
    return (
        f"<div class=story>{_state(run)}{notes}{whole}<div class=cards>{''.join(cards)}</div></div>"
    )


def finished_view(folder: Path, scenes: Sequence[Mapping[str, Any]]) -> str:
    """A story that was made before, by the scenes of its storyboard."""
    cards = [
        _card(folder, number, scene.get("prompt") or "", True, "")
        for number, scene in enumerate(scenes)
    ]
    return f"<div class=story>{_whole(folder)}<div class=cards>{''.join(cards)}</div></div>"


def problem_list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul class=problems role=alert>{items}</ul>" if items else ""


def _state(run: Run) -> str:
    progress = run.progress
    match run.state:
        case "waiting":
            text = "Waiting until another story is finished."
        case "running" if progress is None or not progress.at_work:
            text = "At work."
        case "running":
            assert progress is not None
            numbers = ", ".join(str(number + 1) for number in progress.at_work)
            left = progress.seconds_left
            text = (
                f"Scene {numbers} of {progress.scenes}: step {progress.step} of {progress.steps}"
                f"{'' if left is None else f', about {left:.0f} s left'}."
            )
        case "done":
            text = "Finished."
        case "cancelled":
            text = "Cancelled. What is finished stays, and Generate goes on with it."
        case _:
            text = "Failed."
    bar = ""
    if run.state == "running" and progress is not None and progress.steps:
        share = len(progress.finished) + len(progress.at_work) * progress.step / progress.steps
        bar = f"<progress max={progress.scenes} value={share:.3f}></progress>"
    return f'<p class="state {run.state}" role=status>{text}</p>{bar}'


def _whole(folder: Path) -> str:
    links = " ".join(
        f'<a download="{name}" href="{file_address(folder / name)}">{text}</a>'
        for name, text in _DOWNLOADS.items()
        if (folder / name).is_file()
    )
    return f"{_video(folder / 'story.mp4', 'whole')}<p class=downloads>Download: {links}</p>"


def _card(folder: Path, number: int, prompt: str, finished: bool, otherwise: str) -> str:
    path = folder / f"scene_{number + 1}.mp4"
    # Those of an earlier story of this folder do not count.
    picture = _video(path, "") if finished else ""
    if not picture:
        picture = f"<div class=empty>{otherwise}</div>"
    text = f"<b>{number + 1}</b> <span dir=auto>{escape(prompt)}</span>"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _video(path: Path, kind: str) -> str:
    if not path.is_file():
        return ""
    return (
        f'<video class="{kind}" controls loop muted autoplay playsinline '
        f'src="{file_address(path)}"></video>'
    )
