"""What the page shows of a story while it is made and after, as HTML."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from m2dit_jax.report.document import number_spans
from m2dit_jax.report.story import PAGE
from m2dit_jax.stories.progress import StoryProgress
from m2dit_jax.utils.media import video_frames
from m2dit_jax.utils.stills import read_still
from m2dit_jax.webapp.board import SceneForm
from m2dit_jax.webapp.problems import Problem, read_problems
from m2dit_jax.webapp.runs import Run

_DOWNLOADS = {"story.mp4": "video", "storyboard.json": "storyboard", PAGE: "page"}
Takes = Mapping[int, Mapping[int, Path]]  # videos of the takes of scenes, where there are several


def file_address(path: Path) -> str:
    """Address of a file on the server, with its age, so that a browser shows no older one."""
    return f"/gradio_api/file={quote(str(path))}?v={path.stat().st_mtime_ns}"


def state_view(run: Run | None) -> str:
    """How far a story is, with a bar, and what went wrong; nothing for one that is not made."""
    if run is None:
        return ""
    notes = [str(problem) for problem in read_problems("\n".join(_notes(run)))]
    errors = [str(problem) for problem in read_problems(run.error)]
    text = f"<p class='state {run.state}' role=status>{escape(_state(run))}</p>"
    return f"<div class=progress>{text}{_bar(run)}{problem_list(errors)}{note_list(notes)}</div>"


def story_view(run: Run, takes: Takes | None = None) -> str:
    """The scenes of a story that is being made, those that are finished as players."""
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
    return _story(_whole(run.folder) if run.state == "done" else "", cards, takes or {})


def finished_view(
    folder: Path, scenes: Sequence[Mapping[str, Any]], takes: Takes | None = None
) -> str:
    """A story that was made before, by the scenes of its storyboard."""
    cards = [
        _card(folder, number, scene.get("prompt") or "", True, "")
        for number, scene in enumerate(scenes)
    ]
    return _story(_whole(folder), cards, takes or {})


def outlook_view(problems: Sequence[Problem], lines: Sequence[str], notes: Sequence[str]) -> str:
    """What Generate will do: a line for all scenes of which the same is true, or what is wrong."""
    unwritten = [p.scene + 1 for p in problems if p.is_missing_prompt and p.scene is not None]
    said = [str(problem) for problem in problems if not problem.is_missing_prompt]
    if unwritten:
        said.append(f"{_scenes(unwritten)}: no prompt yet")
    noted = [str(problem) for problem in read_problems("\n".join(notes))]
    return f"{problem_list(said)}{_lines_view(lines)}{note_list(noted)}"


def _lines_view(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    scenes: dict[str, list[int]] = {}
    for line in lines:
        place, _, text = line.partition(": ")
        scenes.setdefault(text, []).append(int(place.removeprefix("scene ")))
    made = sum(len(numbers) for text, numbers in scenes.items() if text.startswith("to be made"))
    head = f"Generate makes {made} of {len(lines)} scenes." if made else "All scenes are made."
    items = "".join(
        f"<li><b>{_scenes(numbers)}</b>: {escape(text)}</li>" for text, numbers in scenes.items()
    )
    return f"<div class=outlook><p>{head}</p><ul>{items}</ul></div>"


def problem_list(lines: Sequence[str]) -> str:
    """Lines about what is wrong."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul class=problems role=alert>{items}</ul>" if items else ""


def note_list(lines: Sequence[str]) -> str:
    """Lines that are good to know."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul class=notes>{items}</ul>" if items else ""


def given_view(scene: SceneForm, size: tuple[int, int]) -> str:
    """A scene's clip or picture, and what it is for.

    A frame shows the part of it that a story of this height and width keeps. Raises VideoError or
    StillError for a file that cannot be read.
    """
    crop = scene.values.get("crop")
    crop = 0.5 if crop is None else crop
    if scene.image is not None:
        address = file_address(scene.image)
        shown, use = f"<img alt='the picture' src='{address}'>", "The scene begins with it."
        if scene.is_reference:
            use = "All scenes see it; it is no part of the video."
        return _framed(shown, read_still(scene.image).shape[:2], size, crop, use)
    assert scene.clip is not None, "the scene has neither clip nor picture"
    shown = f"<video muted loop autoplay playsinline src='{file_address(scene.clip)}'></video>"
    return _framed(shown, next(video_frames(scene.clip)).shape[:2], size, crop, "")


def _framed(
    shown: str, whole: tuple[int, ...], size: tuple[int, int], crop: int | float, use: str
) -> str:
    height, width = whole
    scale = min(height / size[0], width / size[1])
    down, across = (
        min(scale * side / full, 1) for side, full in zip(size, (height, width), strict=True)
    )
    style = (
        f"left:{100 * (1 - across) * crop:.2f}%;top:{100 * (1 - down) * crop:.2f}%;"
        f"width:{100 * across:.2f}%;height:{100 * down:.2f}%"
    )
    kept = "all of it is kept" if across > 0.995 and down > 0.995 else "the frame is what is kept"
    return (
        f"<figure class=clip style='aspect-ratio:{width}/{height}'>{shown}"
        f"<span class=kept style='{style}'></span></figure>"
        f"<p class=clip-size>{width} x {height} pixels, {kept}. {use}</p>"
    )


def _notes(run: Run) -> Sequence[str]:
    return run.progress.notes if run.progress else ()


def _state(run: Run) -> str:
    progress = run.progress
    match run.state:
        case "waiting":
            return "Waiting until another story is finished."
        case "running":
            return _at_work(progress, _since(run.changed))
        case "done":
            return f"Finished in {_duration(run.seconds)}."
        case "cancelled":
            return "Cancelled. What is finished stays, and Generate goes on with it."
    return "Failed."


def _at_work(progress: StoryProgress | None, since: str) -> str:
    if progress is None or not progress.at_work:
        if progress and len(progress.finished) == progress.scenes:
            return "All scenes are made; the files are being written."
        return f"Reading the model and the prompts, {since}."
    where = f"{_scenes([number + 1 for number in progress.at_work])} of {progress.scenes}"
    if progress.step == 0:
        return f"{where}: compiling, then the first step, {since}."
    left = progress.seconds_left
    more = "" if left is None else f", about {_duration(left)} left"
    return f"{where}: step {progress.step} of {progress.steps}{more}."


def _bar(run: Run) -> str:
    progress = run.progress
    if run.state != "running":
        return ""
    if progress is None or not progress.at_work or not progress.step:
        return "<progress></progress>"
    share = len(progress.finished) + len(progress.at_work) * progress.step / progress.steps
    return f"<progress max={progress.scenes} value={share:.3f}></progress>"


def _since(moment: float) -> str:
    return f"for {_duration(time.monotonic() - moment)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def _scenes(numbers: Sequence[int]) -> str:
    """Such as "Scene 2" and "Scenes 1 to 3 and 5"."""
    return f"Scene{'s' if len(numbers) > 1 else ''} {number_spans(numbers)}"


def _story(whole: str, cards: Sequence[str], takes: Takes) -> str:
    compared = "".join(_takes(scene, videos) for scene, videos in takes.items())
    return f"<div class=story>{whole}<div class=cards>{''.join(cards)}</div>{compared}</div>"


def _whole(folder: Path) -> str:
    links = " ".join(
        f'<a download="{name}" href="{file_address(folder / name)}">{text}</a>'
        for name, text in _DOWNLOADS.items()
        if (folder / name).is_file()
    )
    return f"{_video(folder / 'story.mp4', 'whole')}<p class=downloads>Download: {links}</p>"


def _card(
    folder: Path,
    number: int,
    prompt: str,
    finished: bool,
    otherwise: str,
) -> str:
    path = folder / f"scene_{number + 1}.mp4"
    # Those of an earlier story of this folder do not count.
    picture = _video(path, "") if finished else ""
    if not picture:
        picture = f"<div class=empty>{otherwise}</div>"
    text = f"<b>{number + 1}</b> <span dir=auto>{escape(prompt)}</span>"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _takes(number: int, takes: Mapping[int, Path]) -> str:
    """All takes of a scene side by side."""
    if len(takes) < 2:
        return ""
    shown = "".join(
        f"<figure>{_video(path, '')}<figcaption>take {take}</figcaption></figure>"
        for take, path in takes.items()
    )
    return f"<section class=takes><p>Takes of scene {number + 1}</p>{shown}</section>"


def _video(path: Path, kind: str) -> str:
    if not path.is_file():
        return ""
    return (
        f'<video class="{kind}" controls loop muted autoplay playsinline '
        f'src="{file_address(path)}"></video>'
    )
