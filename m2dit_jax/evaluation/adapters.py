"""The effect of adapters on a model: scores without and with them, also of an actor that is new."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.accuracy import StoryBatch, evaluate_stories, world_of
from m2dit_jax.evaluation.report import scores_to_json
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.pipeline.load import of_pixels_run
from m2dit_jax.report.sheets import stories_sheet
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.weights.adapted_run import base_weights

ARMS = ("without", "with adapters")
ANY = "any actor"
_SHOWN = 2  # stories of each actor and arm
_WIDTH = 16


@dataclass(frozen=True)
class AdapterReport:
    """Scores of the same held-out stories by actor (any, and the new one) and by ARMS."""

    scores: Mapping[str, Mapping[str, Mapping[str, Score | Mean]]]
    stories: int
    checkpoint_step: int
    shown: tuple[tuple[str, UInt8[np.ndarray, "S F H W 3"], tuple[str, ...]], ...] = ()

    def to_text(self) -> str:
        """A row for each score, two columns for each actor."""
        columns = [arms[arm] for arms in self.scores.values() for arm in ARMS]
        heads = [f"{actor:>{len(ARMS) * _WIDTH}}" for actor in self.scores]
        arms = [f"{arm:>{_WIDTH}}" for _ in self.scores for arm in ARMS]
        rows = ["".join([f"{'':16}", *heads]), "".join([f"{'':16}", *arms])]
        for name in columns[0]:
            cells = (each[name] for each in columns)
            rows.append(f"{name:16}" + "".join(f"{c.shown(c.value):>{_WIDTH}}" for c in cells))
        rows.append(f"{self.stories} held-out stories of each, step {self.checkpoint_step}")
        return "\n".join(rows)

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `evaluate adapters --json` writes."""
        return {
            "stories": self.stories,
            "checkpoint_step": self.checkpoint_step,
            "scores": {
                actor: {arm: scores_to_json(scores) for arm, scores in arms.items()}
                for actor, arms in self.scores.items()
            },
        }

    def sheet(self) -> Image.Image:
        """Some stories of each actor, without and with the adapters."""
        rows = [(video, captions, [False] * len(video)) for _, video, captions in self.shown]
        return stories_sheet(rows, [title for title, _, _ in self.shown])


def open_base(adapted: Engine, run: Path, dtype: str | None, quantize: str | None) -> Engine:
    """The pipeline of a run on a world as it is without the adapters that the run trained.

    Its base may have learnt from stories of another size; these are the run's, as all settings.
    """
    assert adapted.trained is not None  # it has a world
    recipe, step = adapted.trained.recipe, adapted.trained.step
    return of_pixels_run(recipe, base_weights(run).load, step, dtype=dtype, quantize=quantize)


def score_adapters(
    base: Engine, adapted: Engine, num_stories: int, seed: int, options: SamplingOptions
) -> AdapterReport:
    """Samples held-out stories of any actor and of the adapters' own, by both models.

    Story i is sampled with seed + i. Raises ValueError if the models are of no world.
    """
    actors = [""]
    if own := world_of(adapted)[0].config.data.actor:
        actors.append(own)
    scores: dict[str, dict[str, Any]] = {}
    shown = []
    for actor in actors:
        name, scores[actor or ANY] = actor or ANY, {}
        for arm, engine in zip(ARMS, (base, adapted), strict=True):
            batches: list[StoryBatch] = []
            with progress_bar(num_stories, f"{name}, {arm}", "stories") as bar:

                def keep(batch: StoryBatch, batches=batches, bar=bar) -> None:
                    batches.append(batch)
                    bar.update(len(batch.stories))

                scores[name][arm] = evaluate_stories(
                    engine,
                    num_stories=num_stories,
                    extension=False,
                    seed=seed,
                    options=options,
                    actor=actor,
                    progress=keep,
                )
            first = zip(batches[0].video[:_SHOWN], batches[0].stories, strict=False)
            shown += [
                (f"{name}, {arm}", video, tuple(scene.caption for scene in story))
                for video, story in first
            ]
    assert adapted.trained is not None  # it has a world
    return AdapterReport(scores, num_stories, adapted.trained.step, tuple(shown))
