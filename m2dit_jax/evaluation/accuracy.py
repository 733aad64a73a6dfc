"""How well generated stories agree with their prompts, measured on held-out procedural stories."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.data.oracle import UNKNOWN, Readings, read_scenes
from m2dit_jax.data.shapes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, ShapesSource
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.fidelity import FIDELITY, measure_fidelity, score_fidelity
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.pipeline.engine import Engine

METRICS = ("background", "colour", "shape", "direction", "it", "same_actor", "leakage")
# The keys of `evaluate_stories`: shares, and means of what `fidelity` measures.
SCORES = (*METRICS, *FIDELITY)


@dataclass(frozen=True)
class StoryBatch:
    """Sampled held-out stories: what was asked for, what came out, and which scenes were given.

    `evaluations` are those of the model, at each step.
    """

    stories: tuple[tuple[Scene, ...], ...]
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
    progress: Callable[[StoryBatch], None] | None = None,
) -> dict[str, Score | Mean]:
    """Samples held-out stories and scores them; the result's keys are SCORES.

    `extension` gives all scenes but the last; otherwise none is given. The options default to those
    of the model. `progress` is called with each batch when it is done.
    """
    videos, stories, given = [], [], []
    for batch in sample_held_out(
        engine,
        num_stories=num_stories,
        extension=extension,
        seed=seed,
        batch_size=batch_size,
        options=options,
    ):
        videos.append(batch.video)
        stories += batch.stories
        given.append(batch.given)
        if progress is not None:
            progress(batch)
    video, are_given = np.concatenate(videos), np.concatenate(given)
    readings = read_scenes(video.reshape(-1, *video.shape[2:]))
    fidelity = score_fidelity(measure_fidelity(video[~are_given]))
    return {**score_stories(readings, stories, are_given), **fidelity}


def sample_held_out(
    engine: Engine,
    *,
    num_stories: int,
    extension: bool,
    seed: int,
    batch_size: int = 64,
    options: SamplingOptions | None = None,
) -> Iterator[StoryBatch]:
    """Yields `num_stories` held-out stories in batches; story i is sampled with seed + i.

    Arguments as in `evaluate_stories`. Raises ValueError if there is no story to sample.
    """
    if num_stories < 1 or batch_size < 1:
        raise ValueError(f"needs at least 1 story, got {num_stories=} {batch_size=}")
    data = shapes_recipe(engine).config.data
    source = ShapesSource(seed, data.scenes, data.frames, data.size, True, num_stories)
    # Every batch has the same size, or the last one would compile anew; equal parts leave the
    # least to pad.
    size = math.ceil(num_stories / math.ceil(num_stories / batch_size))
    for start in range(0, num_stories, size):
        wanted = min(size, num_stories - start)
        indices = [start + min(i, wanted - 1) for i in range(size)]
        items = [source[index] for index in indices]
        given = np.broadcast_to(
            extension & (np.arange(data.scenes) < data.scenes - 1), (size, data.scenes)
        )
        made = engine.sample_many(
            [item["captions"] for item in items],
            [seed + index for index in indices],
            options=options,
            clips=np.stack([item["video"] for item in items]),
            given=given,
        )
        yield StoryBatch(
            tuple(item["scenes"] for item in items[:wanted]),
            made.video[:wanted],
            given[:wanted],
            made.latents[:wanted],
            made.evaluations[:, :wanted],
        )


def shapes_recipe(engine: Engine) -> Recipe:
    """The recipe of a model that was trained on shapes. Raises ValueError for other models."""
    trained = engine.trained
    if trained is None or trained.recipe.config.data.source != "shapes":
        raise ValueError("needs a run on shapes: only of these it is known what a scene must show")
    return trained.recipe


def score_stories(
    readings: Readings, stories: Sequence[tuple[Scene, ...]], given: Bool[np.ndarray, "N S"]
) -> dict[str, Score]:
    """Scores what the oracle read, scene after scene of story after story.

    Cases are the scenes that are not given, but for `same_actor`, and unknown is wrong:

    - background, colour, shape, direction: the scene shows its own. The actor of a scene whose
      caption says "it" is the story's.
    - it: shape and colour are both right; cases are only the scenes whose caption says "it".
    - same_actor: cases are stories; in all scenes, given ones included, shape and colour are
      recognised and the same, be it the right ones or not.
    - leakage (the lower the better): the background is wrong and that of another scene of the
      story, or the direction is wrong and that of another scene. Cases are only the scenes for
      which another scene differs in background or direction, since in others nothing could leak.

    Raises ValueError if the numbers of scenes do not agree.
    """
    if readings.shape.size != given.size or len(stories) != len(given):
        raise ValueError(
            f"needs a reading for each scene, got {readings.shape.size} readings, "
            f"{len(stories)} stories and given {given.shape}"
        )
    read = {
        name: getattr(readings, name).reshape(given.shape)
        for name in ("background", "colour", "shape", "direction")
    }
    wanted = {
        "background": _positions([[s.background for s in story] for story in stories], BACKGROUNDS),
        "colour": _positions([[s.colour for s in story] for story in stories], COLOURS),
        "shape": _positions([[s.shape for s in story] for story in stories], SHAPES),
        "direction": _positions([[s.direction for s in story] for story in stories], DIRECTIONS),
    }
    right = {name: read[name] == wanted[name] for name in read}
    generated = ~given
    scores = {name: _share(right[name], generated) for name in right}

    says_it = np.array([[scene.says_it for scene in story] for story in stories])
    scores["it"] = _share(right["shape"] & right["colour"], generated & says_it)

    same_shape = (read["shape"] == read["shape"][:, :1]) & (read["shape"] != UNKNOWN)
    same_colour = (read["colour"] == read["colour"][:, :1]) & (read["colour"] != UNKNOWN)
    same = (same_shape & same_colour).all(1)
    scores["same_actor"] = _share(same, np.ones_like(same))

    leaked, could_leak = np.zeros_like(given), np.zeros_like(given)
    for name in ("background", "direction"):
        own = wanted[name][:, :, None]
        others = wanted[name][:, None, :]
        # An UNKNOWN reading is no scene's value, and a scene does not differ from itself.
        leaked |= ((others != own) & (others == read[name][:, :, None])).any(2)
        could_leak |= (others != own).any(2)
    scores["leakage"] = _share(leaked, generated & could_leak)
    return scores


def _positions(
    names: Sequence[Sequence[str]], table: Sequence[str] | dict[str, tuple]
) -> Int[np.ndarray, "N S"]:
    order = list(table)
    return np.array([[order.index(name) for name in story] for story in names])


def _share(success: Bool[np.ndarray, "*cases"], cases: Bool[np.ndarray, "*cases"]) -> Score:
    return Score.of(int((success & cases).sum()), int(cases.sum()))
