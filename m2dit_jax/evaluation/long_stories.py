"""Whether long stories stay good: scores by the place of a scene, made window by window."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.data.worlds import DrawnStory
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.accuracy import global_prompts, world_of
from m2dit_jax.evaluation.report import Scores
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.evaluation.world_scores import SCORERS, WorldScorer
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.stories.windows import Group, Windows, next_group


@dataclass(frozen=True)
class LongReport:
    """Scores of each scene by its place, and of all scenes taken together."""

    windows: Windows
    by_scene: Sequence[Scores]
    whole: Scores
    seconds: float
    checkpoint_step: int

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `evaluate long --json` writes."""
        return {
            "windows": self.windows._asdict(),
            "scenes": [{m: asdict(s) for m, s in scores.items()} for scores in self.by_scene],
            "whole": {metric: asdict(score) for metric, score in self.whole.items()},
            "seconds": self.seconds,
            "checkpoint_step": self.checkpoint_step,
        }

    def to_text(self) -> str:
        """A row for each scene: shares in per cent, psnr in dB, rms of values from 0 to 255."""
        lines = ["scene " + "".join(f"{name:>16}" for name in self.whole)]
        for number, scores in enumerate(self.by_scene, 1):
            lines.append(f"{number:<6}" + "".join(_cell(scores.get(m)) for m in self.whole))
        lines.append("all   " + "".join(_cell(score) for score in self.whole.values()))
        n = self.whole["same_actor"].n
        lines.append(
            f"{n} stories, window {self.windows.window}, {self.windows.new_scenes} new, "
            f"{'with' if self.windows.anchor else 'without'} anchor; "
            f"checkpoint of step {self.checkpoint_step}, {self.seconds:.0f} s"
        )
        return "\n".join(lines)


def evaluate_long(
    engine: Engine,
    scenes: int,
    windows: Windows,
    num_stories: int,
    seed: int,
    options: SamplingOptions,
) -> tuple[LongReport, list[str], UInt8[np.ndarray, "S F H W 3"]]:
    """The report, and the first story: its captions and its video. Progress goes to stderr."""
    started = time.perf_counter()
    recipe, world = world_of(engine)
    assert engine.trained is not None  # it has a recipe
    batches = held_out_stories(recipe, scenes, num_stories, seed)
    videos, done = [], 0
    for number, batch in enumerate(batches, 1):

        def tell(group: Group, number: int = number) -> None:
            print(
                f"batch {number} of {len(batches)}: scene {group.new[-1] + 1} of {scenes}, "
                f"{time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )

        videos.append(
            sample_long_stories(
                engine,
                batch,
                windows,
                seed=seed,
                options=options,
                first_index=done,
                progress=tell,
            )
        )
        done += len(batch)
    stories = [story.scenes for batch in batches for story in batch]
    scorer = SCORERS[world.name]
    by_scene, whole = score_by_scene(scorer, np.concatenate(videos), stories)
    report = LongReport(
        windows, by_scene, whole, time.perf_counter() - started, engine.trained.step
    )
    return report, [scene.caption for scene in stories[0]], videos[0][0]


def sample_long_stories(
    engine: Engine,
    stories: Sequence[DrawnStory],
    windows: Windows,
    *,
    seed: int,
    options: SamplingOptions | None = None,
    first_index: int = 0,
    progress: Callable[[Group], None] | None = None,
) -> UInt8[np.ndarray, "N S F H W 3"]:
    """All stories, side by side, each group of scenes at once.

    Story i is what a call of the pipeline with seed `seed + first_index + i` and these windows
    makes of its captions.
    """
    defaults = engine.defaults
    number, scenes = len(stories), len(stories[0].scenes)
    size = defaults.frames, defaults.height, defaults.width
    video = np.zeros((number, scenes, *size, 3), np.uint8)
    seeds = [seed + first_index + story for story in range(number)]
    pending, known = list(range(scenes)), []
    while pending:
        group = next_group(pending, known, windows)
        chosen = list(group.scenes)
        made = engine.sample_many(
            [[story.captions[scene] for scene in chosen] for story in stories],
            seeds,
            options=options,
            places=chosen,
            clips=video[:, chosen],
            given=np.array([[scene in group.context for scene in chosen]] * number),
            global_prompts=global_prompts(stories),
        )
        video[:, chosen] = made.video
        pending = [scene for scene in pending if scene not in group.new]
        known = sorted([*known, *group.new])
        if progress is not None:
            progress(group)
    return video


def score_by_scene(
    scorer: WorldScorer,
    video: UInt8[np.ndarray, "N S F H W 3"],
    stories: Sequence[tuple[Any, ...]],
) -> tuple[list[Scores], Scores]:
    """The scores of each scene's place, and of all."""
    none_given = np.zeros(video.shape[:2], bool)
    reading = scorer.read(video, stories, none_given)
    by_scene: list[Scores] = []
    for place in range(video.shape[1]):
        all_others = ~none_given
        all_others[:, place] = False
        scores = scorer.score(reading, stories, all_others)
        by_scene.append({m: s for m, s in scores.items() if m not in scorer.of_stories})
    return by_scene, scorer.score(reading, stories, none_given)


def held_out_stories(
    recipe: Recipe, scenes: int, num_stories: int, seed: int, batch_size: int = 64
) -> list[list[DrawnStory]]:
    """Stories of that many scenes of one length, in batches of nearly one size."""
    data, world = recipe.config.data, recipe.world
    assert world is not None  # there would be nothing to score
    lengths = world.lengths(scenes, data.frames, 0)
    source = recipe.open_stories(seed, lengths, True, num_stories)
    size = math.ceil(num_stories / math.ceil(num_stories / batch_size))
    stories = [source[index] for index in range(num_stories)]
    return [stories[start : start + size] for start in range(0, num_stories, size)]


def _cell(score: Score | Mean | None) -> str:
    return f"{'-' if score is None else score.shown(score.value):>16}"
