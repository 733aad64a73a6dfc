"""Procedural storyboards: one coloured shape moves through several plain scenes.

A story has one actor (a shape of one colour). Each scene puts it on another background and moves
it in a straight line. Everything a caption says can be read back from the pixels (see `oracle`),
so the agreement of a generated video with its prompts can be measured exactly.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.data.plain_text import plain_words

# Of what a seed gives; a run goes on with stories of the version that it began with.
SHAPES_VERSION = 1
SHAPES = ("square", "circle", "triangle", "cross")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
}
BACKGROUNDS = {
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "navy": (0, 0, 128),
    "maroon": (128, 0, 0),
    "olive": (128, 128, 0),
}
# An actor may have the colour of a ground that it is not on. No story is drawn so by chance: such
# an actor is new to a model, which knows the words of its prompts all the same.
ACTOR_COLOURS = COLOURS | BACKGROUNDS
# Unit steps (x to the right, y downwards).
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

# Lengths as fractions of the canvas. Half an actor, half its path and the jitter add up to half
# the canvas, so that an actor may touch the edge but never leaves the picture.
REACH = 5 / 16
PATH = 5 / 16
JITTER = 1 / 32

_CAPTION = (
    rf"(it|a (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})) moves "
    rf"(?P<direction>{'|'.join(DIRECTIONS)}) on (?P<background>{'|'.join(BACKGROUNDS)})"
)
_SHAPE_INDEX = {name: i for i, name in enumerate(SHAPES)}
_COLOUR_INDEX = {name: i for i, name in enumerate(ACTOR_COLOURS)}
_BACKGROUND_INDEX = {name: i for i, name in enumerate(BACKGROUNDS)}
_DIRECTION_INDEX = {name: i for i, name in enumerate(DIRECTIONS)}


@dataclass(frozen=True)
class Scene:
    """The attributes of one scene by name; `says_it` makes the caption call the actor "it"."""

    shape: str
    colour: str
    background: str
    direction: str
    says_it: bool = False

    @property
    def caption(self) -> str:
        actor = "it" if self.says_it else f"a {self.colour} {self.shape}"
        return f"{actor} moves {self.direction} on {self.background}"


class Story(TypedDict):
    """One item of a `ShapesSource`."""

    video: UInt8[np.ndarray, "S F H W 3"]
    captions: list[str]
    scenes: tuple[Scene, ...]


def parse_captions(captions: Sequence[str]) -> list[Scene | None]:
    """The scenes that the captions of a story describe; None for a text that is no caption.

    Who "it" is was said by the last scene before that names an actor, or else by the first after.
    """
    found = [re.fullmatch(_CAPTION, plain_words(caption)) for caption in captions]
    named = [i for i, match in enumerate(found) if match and match["shape"]]
    scenes: list[Scene | None] = []
    for i, match in enumerate(found):
        before = [j for j in named if j <= i]
        actor = found[(before[-1:] or named[:1] or [i])[0]]
        if match is None or actor is None or actor["shape"] is None:
            scenes.append(None)
            continue
        scenes.append(
            Scene(
                actor["shape"],
                actor["colour"],
                match["background"],
                match["direction"],
                says_it=match["shape"] is None,
            )
        )
    return scenes


def vocabulary() -> list[str]:
    """All words that captions use, each once, in an order that never changes."""
    return ["a", "it", "moves", "on", *COLOURS, *SHAPES, *DIRECTIONS, *BACKGROUNDS]


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's combination of attributes is kept out of training.

    The rule is a Latin square: the four attributes' positions in their tables add up to a
    multiple of 4. So every actor on every background has exactly one held-out direction, and any
    three attributes do occur together in training: new is only the combination of all four.
    """
    position = (
        _SHAPE_INDEX[scene.shape]
        + _COLOUR_INDEX[scene.colour]
        + _BACKGROUND_INDEX[scene.background]
        + _DIRECTION_INDEX[scene.direction]
    )
    return position % 4 == 0


def read_actor(text: str) -> tuple[str, str]:
    """Colour and shape of an actor that is named so, such as "white circle".

    Raises ValueError for a text that names none.
    """
    colour, _, shape = text.partition(" ")
    if colour not in ACTOR_COLOURS or shape not in SHAPES:
        raise ValueError(
            f"needs a colour ({', '.join(ACTOR_COLOURS)}) and a shape ({', '.join(SHAPES)}), such "
            f"as 'white circle', got {text!r}"
        )
    return colour, shape


def draw_story(
    rng: np.random.Generator, num_scenes: int, held_out: bool, actor: str = ""
) -> tuple[Scene, ...]:
    """Draws a story whose scenes are all held out, or none of them.

    The backgrounds of up to 6 scenes all differ, so that one that leaks into another scene can be
    seen; longer stories go through the same 6 again. The first scene names the actor, each later
    one says "it" with probability 1/2. `actor`, as `read_actor` reads it, is drawn if it is empty.

    Raises ValueError if num_scenes < 1.
    """
    if num_scenes < 1:
        raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
    if actor:
        colour, shape = read_actor(actor)
    else:
        shape = SHAPES[rng.integers(len(SHAPES))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
    backgrounds = [name for name in BACKGROUNDS if name != colour]
    order = rng.permutation(len(backgrounds))
    story = []
    for i in range(num_scenes):
        background = backgrounds[order[i % len(order)]]
        says_it = i > 0 and bool(rng.integers(2))
        choices = [
            scene
            for direction in DIRECTIONS
            if is_held_out(scene := Scene(shape, colour, background, direction, says_it))
            == held_out
        ]
        story.append(choices[rng.integers(len(choices))])
    return tuple(story)


def draw_elsewhere(rng: np.random.Generator, story: Sequence[Scene], number: int) -> Scene:
    """A scene's actor on a background that no scene of the story has, in another direction."""
    scene = story[number]
    used = {other.background for other in story} | {scene.colour}
    backgrounds = [name for name in BACKGROUNDS if name not in used] or [
        name for name in BACKGROUNDS if name not in (scene.background, scene.colour)
    ]
    directions = [name for name in DIRECTIONS if name != scene.direction]
    return Scene(
        scene.shape,
        scene.colour,
        str(rng.choice(backgrounds)),
        str(rng.choice(directions)),
        scene.says_it,
    )


def unnamed(story: Sequence[Scene]) -> tuple[Scene, ...]:
    """The scenes with captions that all say "it"."""
    return tuple(replace(scene, says_it=True) for scene in story)


def draw_picture(
    rng: np.random.Generator, story: Sequence[Scene], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The story's actor in the middle of a background that no scene has, if there is one."""
    used = {scene.background for scene in story} | {story[0].colour}
    backgrounds = [name for name in BACKGROUNDS if name not in used] or [
        name for name in BACKGROUNDS if name != story[0].colour
    ]
    scene = replace(story[0], background=str(rng.choice(backgrounds)))
    return render_scene(scene, 3, size)[1]


def draw_coverage(
    shape: str, centres: Float[np.ndarray, "*batch 2"], size: int
) -> Float[np.ndarray, "*batch {size} {size}"]:
    """Draws the shape, anti-aliased, as the covered fraction (0 to 1) of each pixel.

    Centres are those of the bounding box, (x, y) in pixels from the top left corner of the canvas.
    """
    grid = np.arange(size) + 0.5
    x = np.abs(grid - centres[..., 0, None])[..., None, :]  # every shape is symmetric in x
    y = (grid - centres[..., 1, None])[..., :, None]
    reach = REACH * size
    # Signed distances in pixels, negative inside. The sizes give all shapes but the triangle,
    # which fills its bounding box, about the same area.
    if shape == "circle":
        distance = np.sqrt(x * x + y * y) - 0.94 * reach
    elif shape == "square":
        distance = np.maximum(x, np.abs(y)) - 0.83 * reach
    elif shape == "triangle":
        slope = (2 * x - y - reach) / np.sqrt(5)
        distance = np.maximum(slope, np.maximum(x, np.abs(y)) - reach)
    elif shape == "cross":
        y = np.abs(y)
        distance = np.maximum(np.maximum(x, y) - reach, np.minimum(x, y) - 0.4 * reach)
    else:
        raise ValueError(f"unknown shape {shape!r}, expected one of {SHAPES}")
    return np.clip(0.5 - distance, 0, 1)


def render_scene(
    scene: Scene, frames: int, size: int, jitter: tuple[float, float] = (0.0, 0.0)
) -> UInt8[np.ndarray, "{frames} {size} {size} 3"]:
    """Renders one scene; `jitter` (x, y, in pixels) moves the middle of the actor's path.

    Raises ValueError if frames < 2 or size < 8.
    """
    _check_canvas(frames, size)
    middle = size / 2 + np.asarray(jitter, float)
    steps = np.linspace(-0.5, 0.5, frames)[:, None] * PATH * size
    centres = middle + steps * np.asarray(DIRECTIONS[scene.direction])
    alpha = draw_coverage(scene.shape, centres, size)[..., None]
    background = np.asarray(BACKGROUNDS[scene.background], float)
    colour = np.asarray(ACTOR_COLOURS[scene.colour], float)
    return np.rint(background + alpha * (colour - background)).astype(np.uint8)


def render_story(
    story: Iterable[Scene], rng: np.random.Generator, frames: int, size: int
) -> UInt8[np.ndarray, "S {frames} {size} {size} 3"]:
    """Renders all scenes of a story, each with its own jitter.

    Raises ValueError if frames < 2 or size < 8.
    """
    limit = JITTER * size
    return np.stack(
        [
            render_scene(scene, frames, size, jitter=tuple(rng.uniform(-limit, limit, 2)))
            for scene in story
        ]
    )


class ShapesSource:
    """Random access to `length` stories; story i depends on (seed, held_out, i) alone.

    `actor` is that of all stories, as for `draw_story`.
    """

    def __init__(
        self,
        seed: int,
        num_scenes: int,
        frames: int,
        size: int,
        held_out: bool,
        length: int,
        actor: str = "",
    ) -> None:
        """Raises ValueError if num_scenes < 1, frames < 2, size < 8, or seed or length < 0."""
        if num_scenes < 1:
            raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
        _check_canvas(frames, size)
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        self.seed = seed
        self.num_scenes = num_scenes
        self.frames = frames
        self.size = size
        self.held_out = held_out
        self.length = length
        self.actor = actor

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Story:
        """Raises IndexError unless 0 <= index < len(self)."""
        if not 0 <= index < self.length:
            raise IndexError(f"story {index} of a source of {self.length}")
        seeds = np.random.SeedSequence([self.seed, int(self.held_out), index])
        rng = np.random.default_rng(seeds)
        scenes = draw_story(rng, self.num_scenes, self.held_out, self.actor)
        video = render_story(scenes, rng, self.frames, self.size)
        return {"video": video, "captions": [s.caption for s in scenes], "scenes": scenes}


def _check_canvas(frames: int, size: int) -> None:
    if frames < 2:
        raise ValueError(f"frames must be at least 2, got {frames}")
    if size < 8:
        raise ValueError(f"size must be at least 8, got {size}")
