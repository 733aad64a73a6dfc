"""Reads finished stories, scores them, and writes what was found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m2dit_jax.evaluation.extractors import Extractor
from m2dit_jax.evaluation.kernel_distance import KernelDistance, kernel_distance
from m2dit_jax.evaluation.video_report import VideoReport
from m2dit_jax.evaluation.video_scores import (
    SceneFeatures,
    StoryScores,
    describe_scene,
    score_all,
    score_story,
)
from m2dit_jax.evaluation.video_stories import VideoStory, find_stories, read_scene
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.utils.video_file import VideoError

SCORES, PAGE = "video_scores.json", "video_scores.html"


def score_videos(
    folder: Path, storyboard: Path | None, reference: Path | None, extractor: Extractor
) -> VideoReport:
    """Scores of the stories that `find_stories` finds; one with a broken video is left out.

    Raises ValueError if none is left.
    """
    found, problems = find_stories(folder, storyboard)
    stories, scenes = _describe(found, extractor, problems)
    if not stories:
        raise ValueError("\n".join([f"--videos={folder}: no story could be read", *problems]))
    distance = None
    if reference is not None:
        distance = _distance_to(reference, scenes, extractor, problems)
    return VideoReport(
        extractor.name, extractor.note, score_all(stories, scenes), stories, distance, problems
    )


def write_video_report(report: VideoReport, output: Path) -> None:
    """JSON and page, into a folder that is made if need be."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / SCORES, report.to_json())
    report.write_page(output / PAGE)


def _describe(
    stories: Sequence[VideoStory], extractor: Extractor, problems: list[str]
) -> tuple[list[StoryScores], list[list[SceneFeatures]]]:
    """Progress goes to stderr; what cannot be read is added to the problems."""
    scored, kept = [], []
    with progress_bar(len(stories), "evaluate", "stories") as progress:
        for story in stories:
            try:
                scenes = [describe_scene(read_scene(path), extractor) for path in story.videos]
            except VideoError as error:
                problems.append(f"{story.name}: {error}")
            else:
                scored.append(score_story(story, scenes, extractor))
                kept.append(scenes)
            progress.update()
    return scored, kept


def _distance_to(
    reference: Path,
    scenes: Sequence[Sequence[SceneFeatures]],
    extractor: Extractor,
    problems: list[str],
) -> KernelDistance:
    """Clips of the folder and of all folders in it are taken, whatever they are called."""
    described = []
    for path in sorted(reference.rglob("*.mp4")):
        if path.name == "story.mp4":  # its scenes are there too
            continue
        try:
            described.append(describe_scene(read_scene(path), extractor).clip)
        except VideoError as error:
            problems.append(f"reference: {error}")
    clips = [scene.clip for story in scenes for scene in story]
    if min(len(described), len(clips)) < 2:
        raise ValueError(
            f"--reference_videos={reference}: found {len(described)} clips there and {len(clips)} "
            "scenes, needs at least 2 of each"
        )
    return kernel_distance(np.stack(clips), np.stack(described))
