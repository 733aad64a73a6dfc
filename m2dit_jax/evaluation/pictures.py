"""How well a model takes a story's actors from a picture, the only thing that shows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.data.pictures import add_picture
from m2dit_jax.data.worlds import DrawnStory
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.accuracy import global_prompts, world_of
from m2dit_jax.evaluation.report import scores_to_json
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.evaluation.world_scores import SCORERS
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.report.sheets import stories_sheet
from m2dit_jax.utils.progress import progress_bar

ARMS = ("picture", "no picture", "another picture")
_SHOWN = 4


@dataclass(frozen=True)
class PictureReport:
    """Scores of the same stories by ARMS: with their picture, without, with the one of another.

    No prompt says what the actors look like: without their picture the scores are those of chance.
    """

    scores: dict[str, dict[str, Score | Mean]]
    stories: int
    checkpoint_step: int
    shown: tuple[tuple[UInt8[np.ndarray, "S F H W 3"], tuple[str, ...]], ...]

    def to_text(self) -> str:
        """A row for each score, a column for each arm."""
        names = list(self.scores[ARMS[0]])
        rows = [f"{'':16}" + "".join(f"{arm:>18}" for arm in ARMS)]
        for name in names:
            values = [self.scores[arm][name] for arm in ARMS]
            rows.append(f"{name:16}" + "".join(f"{v.shown(v.value):>18}" for v in values))
        rows.append(f"{self.stories} held-out stories, step {self.checkpoint_step}")
        return "\n".join(rows)

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `evaluate pictures --json` writes."""
        return {
            "stories": self.stories,
            "checkpoint_step": self.checkpoint_step,
            **{arm: scores_to_json(scores) for arm, scores in self.scores.items()},
        }

    def sheet(self) -> Image.Image:
        """Some stories after their pictures."""
        rows = [
            (video, captions, [True] + [False] * (len(video) - 1)) for video, captions in self.shown
        ]
        return stories_sheet(rows, [f"story {number}" for number in range(len(rows))])


def score_pictures(
    engine: Engine, num_stories: int, seed: int, options: SamplingOptions, batch_size: int = 32
) -> PictureReport:
    """Samples held-out stories after a picture of their actors, and scores the scenes.

    Story i is sampled with seed + i. Raises ValueError if the model is of no world.
    """
    recipe, world = world_of(engine)
    data, patch = recipe.config.data, recipe.config.model.patch_size_t
    lengths = world.lengths(data.scenes, data.frames, 0)
    source = recipe.open_stories(seed, lengths, True, num_stories)
    plain = [source[number] for number in range(num_stories)]
    drawn = [
        add_picture(story, world, np.random.default_rng([seed, number]), patch)
        for number, story in enumerate(plain)
    ]
    others = [
        story._replace(video=np.concatenate([other.video[:1], story.video[1:]]))
        for story, other in zip(drawn, [*drawn[1:], drawn[0]], strict=True)
    ]
    arms = {
        "picture": drawn,
        "no picture": [_without_picture(story) for story in drawn],
        "another picture": others,
    }
    scorer, scores, shown = SCORERS[world.name], {}, ()
    for arm, stories in arms.items():
        with progress_bar(num_stories, arm, "stories") as bar:
            video = _sample(engine, stories, seed, options, batch_size, bar.update)
        if arm == ARMS[0]:
            shown = tuple(
                (video[number], tuple(drawn[number].captions))
                for number in range(min(_SHOWN, num_stories))
            )
        scenes = video[:, -data.scenes :]
        wanted = [story.scenes for story in stories]
        nothing = np.zeros(scenes.shape[:2], bool)
        scores[arm] = scorer.score(scorer.read(scenes, wanted, nothing), wanted, nothing)
    assert engine.trained is not None  # it has a world
    return PictureReport(scores, num_stories, engine.trained.step, shown)


def _without_picture(story: DrawnStory) -> DrawnStory:
    return story._replace(
        video=story.video[1:], captions=story.captions[1:], lengths=story.lengths[1:]
    )


def _sample(
    engine: Engine,
    stories: Sequence[DrawnStory],
    seed: int,
    options: SamplingOptions,
    batch_size: int,
    done: Any,
) -> UInt8[np.ndarray, "N S F H W 3"]:
    """The stories, of which a scene more than they have scenes is a picture, and given."""
    size = math.ceil(len(stories) / math.ceil(len(stories) / batch_size))
    scenes = len(stories[0].lengths)
    pictures = scenes - len(stories[0].scenes)
    videos = []
    for first in range(0, len(stories), size):
        batch = list(stories[first : first + size])
        real = len(batch)
        batch += [batch[-1]] * (size - real)
        made = engine.sample_many(
            [story.captions for story in batch],
            [seed + first + min(number, real - 1) for number in range(size)],
            options=options,
            clips=np.stack([story.video for story in batch]),
            given=np.broadcast_to(np.arange(scenes) < pictures, (size, scenes)),
            global_prompts=global_prompts(batch),
            frames=batch[0].lengths,
        )
        videos.append(made.video[:real])
        done(real)
    return np.concatenate(videos)
