"""Reads finished stories, scores them, and writes what was found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from m2dit_jax.evaluation.actor_features import actor_scores, describe_actors
from m2dit_jax.evaluation.actors import ActorFeatures
from m2dit_jax.evaluation.cuts import Tolerance, score_cuts
from m2dit_jax.evaluation.extractors import CLASSICAL, Extractors
from m2dit_jax.evaluation.frame_consistency import consistency_scores
from m2dit_jax.evaluation.kernel_distance import KernelDistance, kernel_distance
from m2dit_jax.evaluation.video_report import VideoReport
from m2dit_jax.evaluation.video_scores import (
    SceneFeatures,
    StoryScores,
    describe_scene,
    score_all,
    score_story,
)
from m2dit_jax.evaluation.video_stories import (
    VideoStory,
    frame_rate,
    read_scene,
    read_scenes,
)
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.utils.video_file import VideoError

SCORES, PAGE = "video_scores.json", "video_scores.html"
DEFAULT_TOLERANCE = Tolerance(2)
_BY_COLOURS = "by colours and edges: name --clip to compare what is seen"


def score_videos(
    stories: Sequence[VideoStory],
    problems: Sequence[str],
    extractors: Extractors,
    reference: Path | None = None,
    tolerance: Tolerance = DEFAULT_TOLERANCE,
) -> VideoReport:
    """Scores of stories as `find_stories` finds them; one with a broken video is left out.

    `problems` are of those that were not found; cuts may lie the tolerance from where they are
    asked for. Raises ValueError if none is left.
    """
    problems = list(problems)
    scored, scenes, actors = _describe(stories, extractors, tolerance, problems)
    if not scored:
        raise ValueError("\n".join(["--videos: no story could be read", *problems]))
    distance = None
    if reference is not None:
        distance = _distance_to(reference, scenes, extractors, problems)
    scores = {
        **score_all(scored, scenes),
        **consistency_scores(
            "subject",
            [[s.subject for s in story if s.subject is not None] for story in scenes],
            "needs --dino: a folder with DINO or DINOv2",
        ),
        **consistency_scores(
            "background",
            [[s.background for s in story if s.background is not None] for story in scenes],
            "needs --clip: a folder with CLIP",
        ),
        **actor_scores(
            actors,
            [story.actors for story in scored],
            _BY_COLOURS if extractors.of_actors.name == CLASSICAL else "",
        ),
    }
    cuts = score_cuts([story.film_cuts for story in scored])
    main = extractors.main
    return VideoReport(
        main.name, main.note, scores, scored, distance, problems, cuts, extractors.names
    )


def write_video_report(report: VideoReport, output: Path) -> None:
    """JSON and page, into a folder that is made if need be."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / SCORES, report.to_json())
    report.write_page(output / PAGE)


def _describe(
    stories: Sequence[VideoStory],
    extractors: Extractors,
    tolerance: Tolerance,
    problems: list[str],
) -> tuple[list[StoryScores], list[list[SceneFeatures]], list[list[ActorFeatures]]]:
    """Progress goes to stderr; what cannot be read is added to the problems."""
    scored, kept, cast = [], [], []
    with progress_bar(len(stories), "evaluate", "stories") as progress:
        for story in stories:
            try:
                rate = frame_rate(story.videos[0]) if tolerance.seconds else 1.0
                frames, note = read_scenes(story, extractors.side)
                scenes = [describe_scene(video, extractors) for video in frames]
                lengths = [len(scene.shares) for scene in scenes]
                actors = describe_actors(story, lengths, extractors.of_actors)
            except VideoError as error:
                problems.append(f"{story.name}: {error}")
            else:
                reach = tolerance.in_frames(rate)
                scores = score_story(story, scenes, extractors.main, reach, actors)
                scored.append(replace(scores, note=note))
                kept.append(scenes)
                cast.append(actors)
            progress.update()
    return scored, kept, cast


def _distance_to(
    reference: Path,
    scenes: Sequence[Sequence[SceneFeatures]],
    extractors: Extractors,
    problems: list[str],
) -> KernelDistance:
    """Clips of the folder and of all folders in it are taken, whatever they are called."""
    described, main = [], Extractors(extractors.main)
    for path in sorted(reference.rglob("*.mp4")):
        if path.name == "story.mp4":  # its scenes are there too
            continue
        try:
            described.append(describe_scene(read_scene(path, main.side), main).clip)
        except VideoError as error:
            problems.append(f"reference: {error}")
    clips = [scene.clip for story in scenes for scene in story]
    if min(len(described), len(clips)) < 2:
        raise ValueError(
            f"--reference_videos={reference}: found {len(described)} clips there and {len(clips)} "
            "scenes, needs at least 2 of each"
        )
    return kernel_distance(np.stack(clips), np.stack(described))
