"""Quick evaluations of a run on the way: stories sampled with the averaged weights, and scores."""

from pathlib import Path

import numpy as np

from m2dit_jax.config.schema import Config
from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.evaluation.accuracy import StoryBatch, evaluate_stories
from m2dit_jax.evaluation.recall import recall_stories, training_stories
from m2dit_jax.evaluation.scores import Score
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.training.metrics import MetricsWriter
from m2dit_jax.training.preview import (
    PREVIEW_STORIES,
    captions_text,
    small_video,
    write_preview,
    write_recall,
)


def evaluate_held_out(
    engine: Engine, config: Config, step: int, workdir: Path, metrics: MetricsWriter
) -> None:
    """Scores and shows held-out stories of the run's world."""
    values = {}
    for task in ("generation", "extension"):
        batches: list[StoryBatch] = []
        scores = evaluate_stories(
            engine,
            num_stories=config.train.eval_stories,
            extension=task == "extension",
            seed=config.seed,
            progress=batches.append,
        )
        values |= {f"{task}/{name}": score.value for name, score in scores.items()}
        if task == "generation":
            sheet = write_preview(workdir / "previews", step, batches[0], config.sample.fps)
            batch = batches[0]
            shown = batch.stories[:PREVIEW_STORIES]
            titles = [f"held-out story {number}" for number in range(len(shown))]
            captions = captions_text(titles, [[s.caption for s in story] for story in shown])
            metrics.write_image(step, "preview", np.asarray(sheet), captions)
            metrics.write_video(step, "preview/video", small_video(batch.video), config.sample.fps)
        told = "  ".join(
            f"{name} {score.value:.0%}" if isinstance(score, Score) else f"{name} {score.value:.1f}"
            for name, score in scores.items()
            if score.value is not None
        )
        print(f"step {step} {task:10}  {told}", flush=True)
    metrics.write(step, values)


def evaluate_recall(
    engine: Engine,
    config: Config,
    step: int,
    workdir: Path,
    metrics: MetricsWriter,
    dataset: EncodedDataset,
) -> None:
    """Shows what the prompts of the first training stories bring back."""
    clips = training_stories((dataset,), config.data.scenes, config.train.eval_stories)
    recalled = recall_stories(engine, clips, config.seed)
    sheet = write_recall(workdir / "previews", step, clips, recalled, config.sample.fps)
    shown = clips[:PREVIEW_STORIES]
    titles = [f"training story {number}" for number in range(len(shown))]
    captions = captions_text(titles, [story.captions for story in shown])
    metrics.write_image(step, "preview", np.asarray(sheet), captions)
    metrics.write_video(step, "preview/video", small_video(recalled.made), config.sample.fps)
    value = float(recalled.psnr.mean())
    metrics.write(step, {"recall/psnr": value})
    print(
        f"step {step} PSNR of {len(clips)} training stories from their prompts: {value:.1f} dB",
        flush=True,
    )
