"""A run on a world scored on held-out stories: generation, extension, and what sampling cost."""

import sys
import time
from dataclasses import dataclass

from PIL import Image

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.accuracy import (
    StoryBatch,
    evaluate_stories,
    sample_held_out,
    world_of,
)
from m2dit_jax.evaluation.report import Report
from m2dit_jax.evaluation.sampling_cost import Cost, cost_of
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.pipeline.load import run_options
from m2dit_jax.report.sheets import stories_sheet
from m2dit_jax.utils.progress import progress_bar

TASKS = ("generation", "extension")
SHEET_STORIES = 4  # for each of the tasks


@dataclass(frozen=True)
class ScoredRun:
    """The report, by task what sampling cost, and by task some of the stories."""

    report: Report
    costs: dict[str, Cost]
    shown: dict[str, StoryBatch]


def score_run(engine: Engine, num_stories: int, seed: int, options: SamplingOptions) -> ScoredRun:
    """Samples and scores held-out stories of the run's world; progress goes to stderr.

    Where the options save evaluations that the run's own do not, the run without these savings is
    made beside it to tell the error.
    """
    full_options = _without_savings(engine, options)
    started = time.perf_counter()
    scores, shown, costs = {}, {}, {}
    for task in TASKS:
        batches: list[StoryBatch] = []
        with progress_bar(num_stories, task, "stories") as bar:

            def keep(batch: StoryBatch, batches=batches, bar=bar) -> None:
                batches.append(batch)
                bar.update(len(batch.stories))

            scores[task] = evaluate_stories(
                engine,
                num_stories=num_stories,
                extension=task == "extension",
                seed=seed,
                options=options,
                progress=keep,
            )
        shown[task] = batches[0]
        full = None
        if options != full_options:
            print(f"{task} with every evaluation", file=sys.stderr)
            full = list(
                sample_held_out(
                    engine,
                    num_stories=num_stories,
                    extension=task == "extension",
                    seed=seed,
                    options=full_options,
                )
            )
        costs[task] = cost_of(batches, full)
    assert engine.trained is not None  # evaluate_stories has checked
    report = Report(
        **scores,
        seconds=time.perf_counter() - started,
        checkpoint_step=engine.trained.step,
        sampling={
            "options": vars(options),
            **{task: cost.to_json() for task, cost in costs.items()},
        },
    )
    return ScoredRun(report, costs, shown)


def _without_savings(engine: Engine, options: SamplingOptions) -> SamplingOptions:
    """The options with every evaluation, but with the guidance interval that the run has anyway."""
    own = run_options(world_of(engine)[0])
    return options.full().replace(guidance_start=own.guidance_start, guidance_end=own.guidance_end)


def scored_sheet(scored: ScoredRun) -> Image.Image:
    """The first stories of each task, with their captions."""
    rows, titles = [], []
    for task, batch in scored.shown.items():
        for i, story in enumerate(batch.stories[:SHEET_STORIES]):
            captions = [scene.caption for scene in story]
            rows.append((batch.video[i], captions, batch.given[i].tolist()))
            titles.append(f"{task}, story {i}")
    return stories_sheet(rows, titles)
