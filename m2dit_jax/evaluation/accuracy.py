"""How well generated stories agree with their prompts, measured on held-out procedural stories."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.data.worlds import WORLDS, DrawnStory, StorySource, World
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.evaluation.world_scores import SCORERS
from m2dit_jax.pipeline.engine import Engine


@dataclass(frozen=True)
class StoryBatch:
    """Sampled held-out stories: what was asked for, what came out, and which scenes were given.

    `evaluations` are those of the model, at each step.
    """

    stories: tuple[tuple[Any, ...], ...]
    video: UInt8[np.ndarray, "N S F H W 3"]
    given: Bool[np.ndarray, "N S"]
    latents: Float[np.ndarray, "N S F H W C"]
    evaluations: Int[np.ndarray, "steps N"]


def evaluate_stories(
    engine: Engine,
    *,
    num_stories: int,
    extension: bool,
    seed: int,
    batch_size: int = 64,
    options: SamplingOptions | None = None,
    actor: str | None = None,
    progress: Callable[[StoryBatch], None] | None = None,
) -> dict[str, Score | Mean]:
    """Samples held-out stories and scores them, as the scorer of their world says.

    `extension` gives all scenes but the last; otherwise none is given. The options default to those
    of the model, `actor` to that of its run; "" is any. `progress` is called with each batch when
    it is done.
    """
    videos, stories, given = [], [], []
    for batch in sample_held_out(
        engine,
        num_stories=num_stories,
        extension=extension,
        seed=seed,
        batch_size=batch_size,
        options=options,
        actor=actor,
    ):
        videos.append(batch.video)
        stories += batch.stories
        given.append(batch.given)
        if progress is not None:
            progress(batch)
    video, are_given = np.concatenate(videos), np.concatenate(given)
    scorer = SCORERS[world_of(engine)[1].name]
    return scorer.score(scorer.read(video, stories, are_given), stories, are_given)


def sample_held_out(
    engine: Engine,
    *,
    num_stories: int,
    extension: bool,
    seed: int,
    batch_size: int = 64,
    options: SamplingOptions | None = None,
    actor: str | None = None,
) -> Iterator[StoryBatch]:
    """Yields `num_stories` held-out stories in batches; story i is sampled with seed + i.

    Arguments as in `evaluate_stories`. Raises ValueError if there is no story to sample.
    """
    if num_stories < 1 or batch_size < 1:
        raise ValueError(f"needs at least 1 story, got {num_stories=} {batch_size=}")
    recipe, world = world_of(engine)
    data = recipe.config.data
    lengths = world.lengths(data.scenes, data.frames, data.short_frames)
    in_a_row = math.ceil(num_stories / len(lengths))  # so that stories of one length are neighbours
    source = recipe.open_stories(seed, lengths, True, num_stories, in_a_row, actor)
    for first in range(0, num_stories, in_a_row):
        last = min(first + in_a_row, num_stories)
        # Every batch has the same size, or the last one would compile anew; equal parts leave the
        # least to pad.
        size = math.ceil((last - first) / math.ceil((last - first) / batch_size))
        for start in range(first, last, size):
            numbers = list(range(start, min(start + size, last)))
            yield _sample_batch(engine, source, numbers, size, extension, seed, options)


def _sample_batch(
    engine: Engine,
    source: StorySource,
    numbers: Sequence[int],
    size: int,
    extension: bool,
    seed: int,
    options: SamplingOptions | None,
) -> StoryBatch:
    """Stories of one length, the last one repeated up to the size of a batch."""
    wanted = len(numbers)
    indices = [*numbers, *[numbers[-1]] * (size - wanted)]
    items = [source[index] for index in indices]
    scenes = len(items[0].scenes)
    given = np.broadcast_to(extension & (np.arange(scenes) < scenes - 1), (size, scenes))
    made = engine.sample_many(
        [item.captions for item in items],
        [seed + index for index in indices],
        options=options,
        clips=np.stack([item.video for item in items]),
        given=given,
        global_prompts=global_prompts(items),
        frames=items[0].lengths,
    )
    return StoryBatch(
        tuple(item.scenes for item in items[:wanted]),
        made.video[:wanted],
        given[:wanted],
        made.latents[:wanted],
        made.evaluations[:, :wanted],
    )


def global_prompts(stories: Sequence[DrawnStory]) -> list[str] | None:
    """The global prompts of stories of a world; None if it has none."""
    texts = [story.global_prompt for story in stories if story.global_prompt is not None]
    return texts or None


def world_of(engine: Engine) -> tuple[Recipe, World]:
    """The recipe and the world of a model. Raises ValueError if it was not trained on a world."""
    trained = engine.trained
    if trained is None or trained.recipe.world is None:
        raise ValueError(
            f"needs a run on {' or '.join(WORLDS)}: only of these it is known what a scene must "
            "show"
        )
    return trained.recipe, trained.recipe.world
