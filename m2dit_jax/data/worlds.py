"""The worlds: what draws stories here, by the name that `config.data.source` has.

A world draws stories, says which words they use and reads back what a scene shows. How stories of
a world are scored is in `evaluation.world_scores`, by the same names.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.data import oracle, shapes
from m2dit_jax.data.storyworld import captions, stories
from m2dit_jax.data.storyworld.attributes import STORYWORLD_VERSION
from m2dit_jax.data.storyworld.oracle import find_misfits
from m2dit_jax.data.storyworld.paths import LEAST_FRAMES

Lengths = tuple[int, ...]  # frames of each scene


class DrawnStory(NamedTuple):
    """A story as it was drawn.

    `scenes` has the attributes of each, among them its `caption`. Shorter scenes are filled up with
    black. `global_prompt` is None in worlds that have none.
    """

    video: UInt8[np.ndarray, "S F H W 3"]
    captions: list[str]
    scenes: tuple[Any, ...]
    lengths: Lengths
    global_prompt: str | None = None

    @property
    def prompts(self) -> list[str]:
        """The captions, after the global prompt in worlds that have one."""
        return [*([] if self.global_prompt is None else [self.global_prompt]), *self.captions]


class Pictured(NamedTuple):
    """A picture of a story's actors, and the scenes with captions that describe none of them."""

    picture: UInt8[np.ndarray, "H W 3"]
    prompt: str
    scenes: tuple[Any, ...]


@runtime_checkable
class StorySource(Protocol):
    """Random access to drawn stories; each depends on seed, half, sizes and its number alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> DrawnStory: ...


@runtime_checkable
class World(Protocol):
    """What draws stories and reads them back."""

    name: str
    version: int
    """Of what a seed gives."""
    least_size: int
    """Height and width, in pixels, that its pictures have at least."""
    least_frames: int
    """Frames that its scenes have at least."""
    has_global_prompt: bool
    """Whether its stories have a text that all scenes see, be it empty."""

    def vocabulary(self) -> list[str]:
        """All words of its prompts, each once, in an order that never changes."""
        ...

    def longest_prompts(self) -> list[str]:
        """Prompts than which none of its has more words."""
        ...

    def lengths(self, scenes: int, frames: int, short: int) -> tuple[Lengths, ...]:
        """The lengths that the stories take in turn; `short` is that of shorter scenes, 0: none."""
        ...

    def open(
        self,
        seed: int,
        lengths: Sequence[Lengths],
        size: int,
        held_out: bool,
        length: int,
        in_a_row: int = 1,
        actor: str = "",
    ) -> StorySource:
        """A source of `length` stories; each of `lengths` is that of `in_a_row` stories in turn.

        `actor`, in a world where one can be named, is that of all of them.
        """
        ...

    def elsewhere(self, rng: np.random.Generator, scenes: Sequence[Any], number: int) -> str:
        """A caption for a scene of a story that asks for another place and motion."""
        ...

    def picture(self, rng: np.random.Generator, scenes: Sequence[Any], size: int) -> Pictured:
        """A picture of a story's actors at a place where no scene is, if there is one."""
        ...

    def misfits(
        self,
        prompts: Sequence[str],
        global_prompt: str,
        scene: int,
        frames: UInt8[np.ndarray, "F H W 3"],
    ) -> list[str]:
        """What a scene shows otherwise than its prompts ask; nothing for other texts."""
        ...


class _Source:
    """The stories of a world's own source, as every world gives them."""

    def __init__(self, stories: Any):
        self._stories = stories

    def __len__(self) -> int:
        return len(self._stories)

    def __getitem__(self, index: int) -> DrawnStory:
        story: Mapping[str, Any] = self._stories[index]
        video, scenes = story["video"], story["scenes"]
        lengths = tuple(getattr(scene, "frames", video.shape[1]) for scene in scenes)
        return DrawnStory(video, story["captions"], scenes, lengths, story.get("global_prompt"))


class _Shapes:
    """One coloured shape on plain grounds: `data.shapes`."""

    name, version, least_size = "shapes", shapes.SHAPES_VERSION, 8
    least_frames, has_global_prompt = 2, False

    def vocabulary(self) -> list[str]:
        return shapes.vocabulary()

    def longest_prompts(self) -> list[str]:
        return [shapes.Scene("square", "red", "black", "left").caption]

    def lengths(self, scenes: int, frames: int, short: int) -> tuple[Lengths, ...]:
        return ((frames,) * scenes,)

    def open(
        self,
        seed: int,
        lengths: Sequence[Lengths],
        size: int,
        held_out: bool,
        length: int,
        in_a_row: int = 1,
        actor: str = "",
    ) -> StorySource:
        [frames] = lengths
        sizes = len(frames), frames[0], size
        return _Source(shapes.ShapesSource(seed, *sizes, held_out, length, actor))

    def elsewhere(self, rng: np.random.Generator, scenes: Sequence[Any], number: int) -> str:
        return shapes.draw_elsewhere(rng, scenes, number).caption

    def picture(self, rng: np.random.Generator, scenes: Sequence[Any], size: int) -> Pictured:
        return Pictured(shapes.draw_picture(rng, scenes, size), "it", shapes.unnamed(scenes))

    def misfits(
        self,
        prompts: Sequence[str],
        global_prompt: str,
        scene: int,
        frames: UInt8[np.ndarray, "F H W 3"],
    ) -> list[str]:
        wanted = shapes.parse_captions(prompts)[scene]
        if wanted is None:
            return []
        return [
            f"{name} is {found or 'not to be recognised'}, not {getattr(wanted, name)}"
            for name, found in oracle.read_scene(frames).items()
            if found != getattr(wanted, name)
        ]


class _Storyworld:
    """Little films of actors in places: `data.storyworld`."""

    name, version, least_size = "storyworld", STORYWORLD_VERSION, stories.LEAST_SIZE
    least_frames, has_global_prompt = LEAST_FRAMES, True

    def vocabulary(self) -> list[str]:
        return captions.vocabulary()

    def longest_prompts(self) -> list[str]:
        both = [captions.name_actor(("box", colour, "hat")) for colour in ("red", "blue")]
        return [captions.write_caption(" and ".join(both), True, "left", "sea", True)]

    def lengths(self, scenes: int, frames: int, short: int) -> tuple[Lengths, ...]:
        """All scenes long; then every third scene short, beginning with each of the first three."""
        equal = (frames,) * scenes
        if not short:
            return (equal,)
        return (
            equal,
            *(
                tuple(short if scene % 3 == first else frames for scene in range(scenes))
                for first in range(min(scenes, 3))
            ),
        )

    def open(
        self,
        seed: int,
        lengths: Sequence[Lengths],
        size: int,
        held_out: bool,
        length: int,
        in_a_row: int = 1,
        actor: str = "",
    ) -> StorySource:
        if actor:
            raise ValueError(f"storyworld has no actor of one name, got {actor!r}")
        return _Source(stories.StoryworldSource(seed, lengths, size, held_out, length, in_a_row))

    def elsewhere(self, rng: np.random.Generator, scenes: Sequence[Any], number: int) -> str:
        return stories.draw_elsewhere(rng, scenes, number)

    def picture(self, rng: np.random.Generator, scenes: Sequence[Any], size: int) -> Pictured:
        prompt = "they" if len(stories.cast_of(scenes)) > 1 else "it"
        return Pictured(stories.draw_picture(rng, scenes, size), prompt, stories.unnamed(scenes))

    def misfits(
        self,
        prompts: Sequence[str],
        global_prompt: str,
        scene: int,
        frames: UInt8[np.ndarray, "F H W 3"],
    ) -> list[str]:
        return find_misfits(prompts, global_prompt, scene, frames)


WORLDS: dict[str, World] = {world.name: world for world in (_Shapes(), _Storyworld())}
