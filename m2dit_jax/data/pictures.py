"""Stories with a picture before them, which alone shows what their actors look like."""

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
        number = batch // self.rounds
        return int((number + 1) * self.share) > int(number * self.share)

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
