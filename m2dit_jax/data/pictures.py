"""Stories with a picture before them, which alone shows what their actors look like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2dit_jax.data.worlds import DrawnStory, World

_STREAM = 1  # of the random numbers of a story's picture


@dataclass(frozen=True)
class StoryPictures:
    """The batches of which every story has a picture, a share of them spread evenly.

    `rounds` batches in a row are with or without one: as many as the world has patterns of lengths.
    A picture is a still clip of `frames` frames, those of a patch of the transformer.
    """

    world: World
    seed: int
    share: float
    frames: int
    rounds: int = 1

    def has(self, batch: int) -> bool:
        """Whether the stories of a batch have one."""
        return has_picture(batch // self.rounds, self.share)

    def examples(self) -> list[int]:
        """The numbers of batches of every kind, with pictures and without."""
        found: dict[tuple[bool, int], int] = {}
        kinds = self.rounds * (1 + (0 < self.share < 1))
        batch = 0
        while len(found) < kinds:
            found.setdefault((self.has(batch), batch % self.rounds), batch)
            batch += 1
        return list(found.values())

    def add(self, story: DrawnStory, number: int) -> DrawnStory:
        """The story with that number in its source, after its picture; no prompt names an actor."""
        rng = np.random.default_rng([self.seed, number, _STREAM])
        return add_picture(story, self.world, rng, self.frames)


@dataclass(frozen=True)
class ScenePictures:
    """The samples of encoded videos that have a picture, a share of the batches of each dataset.

    A picture is the first frame of a scene of the story, with that scene's prompt, and lasts
    `frames`, those of a patch of the transformer.
    """

    seed: int
    share: float
    frames: int

    def choose(
        self, scenes: Sequence[tuple[int, int]], scene_counts: Sequence[int], place: tuple[int, int]
    ) -> tuple[int, int]:
        """Story and number of the scene of which a sample has a picture.

        It is of the story of one of the sample's scenes; where it can be, it is none of them.
        `place` are the numbers of batch and row.
        """
        rng = np.random.default_rng([self.seed, *place, _STREAM])
        story, scene = scenes[int(rng.integers(len(scenes)))]
        others = [n for n in range(scene_counts[story]) if (story, n) not in scenes]
        return story, others[int(rng.integers(len(others)))] if others else scene


def has_picture(number: int, share: float) -> bool:
    """Whether number is one of a share of all numbers, spread evenly."""
    return int((number + 1) * share) > int(number * share)


def add_picture(
    story: DrawnStory, world: World, rng: np.random.Generator, frames: int
) -> DrawnStory:
    """The story after a picture of its actors as its first scene.

    `scenes` are those of the story alone.
    """
    picture, prompt, scenes = world.picture(rng, story.scenes, story.video.shape[2])
    still = np.zeros_like(story.video[:1])
    still[:, :frames] = picture
    return story._replace(
        video=np.concatenate([still, story.video]),
        captions=[prompt, *(scene.caption for scene in scenes)],
        scenes=scenes,
        lengths=(frames, *story.lengths),
    )
