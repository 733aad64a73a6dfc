"""Stories drawn by chance: who, where and what; and a source of them by number."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.data.storyworld import attributes as a
from m2dit_jax.data.storyworld.attributes import Actor, Scene
from m2dit_jax.data.storyworld.captions import GLOBAL_PROMPTS, ONES, name_actor, write_caption
from m2dit_jax.data.storyworld.drawing import draw_scene
from m2dit_jax.data.storyworld.paths import LEAST_FRAMES, scene_paths

_PAIR = 0.4  # share of stories with two actors
_RETURN = 0.5  # of scenes that may come back to a place, the share that does
_LIT = 0.5  # share of stories with a global prompt
_NEW_PATTERN = 1 / 3  # of the actors of held-out stories
_NAMES_AGAIN = 0.35  # of later scenes
LEAST_SIZE = 24


class Story(TypedDict):
    """One item of a `StoryworldSource`; scenes that are shorter are filled up with black."""

    video: UInt8[np.ndarray, "S F H W 3"]
    captions: list[str]
    global_prompt: str
    scenes: tuple[Scene, ...]


def is_held_out(actor: Actor, place: str, motion: str) -> bool:
    """Whether this actor's doing that there is kept out of training.

    The rule is a Latin square: the positions of body, colour, place and motion in their tables add
    up to a multiple of 4. So every actor has exactly one held-out motion at every place, alone and
    as one of two. Parts and patterns do not matter.
    """
    motions = a.PAIR_MOTIONS if motion in a.PAIR_MOTIONS else a.SOLO_MOTIONS
    return (_kind(actor) + a.PLACES.index(place) + motions.index(motion)) % 4 == 0


def _kind(actor: Actor) -> int:
    return a.BODIES.index(actor.body) + list(a.COLOURS).index(actor.colour)


def draw_story(
    rng: np.random.Generator, lengths: Sequence[int], held_out: bool
) -> tuple[Scene, ...]:
    """A story of scenes of these lengths, all of which are held out, or none.

    Two actors have different colours, and what is held out of one is of the other. Later scenes
    come back to a place of before or go to a new one while there is one; none stays. Raises
    ValueError if there is no scene.
    """
    if not lengths:
        raise ValueError("a story needs at least 1 scene")
    cast = _draw_cast(rng, held_out)
    light = str(rng.choice(a.LIGHTS[1:])) if rng.random() < _LIT else "day"
    places = _draw_places(rng, len(lengths))
    arrangements = rng.integers(len(a.ARRANGEMENTS), size=len(a.PLACES))
    scenes: list[Scene] = []
    for number, (place, frames) in enumerate(zip(places, lengths, strict=True)):
        here = tuple(range(len(cast)))
        if number and len(cast) == 2 and rng.random() < 0.5:
            here = (int(rng.integers(2)),)
        motions = a.SOLO_MOTIONS if len(here) == 1 else a.PAIR_MOTIONS
        allowed = [m for m in motions if is_held_out(cast[here[0]], place, m) == held_out]
        motion = allowed[rng.integers(len(allowed))]
        names = number == 0 or bool(rng.random() < _NAMES_AGAIN)
        subject = _subject(cast, here, names)
        returns = place in places[:number]
        scenes.append(
            Scene(
                tuple(cast[i] for i in here),
                motion,
                place,
                int(arrangements[a.PLACES.index(place)]),
                light,
                frames,
                write_caption(subject, len(here) == 2, motion, place, returns),
                names,
                returns,
            )
        )
    return tuple(scenes)


def draw_elsewhere(rng: np.random.Generator, story: Sequence[Scene], number: int) -> str:
    """A caption for a scene of the story in which its actors do something else at a new place."""
    scene = story[number]
    used = {other.place for other in story}
    places = [p for p in a.PLACES if p not in used] or [p for p in a.PLACES if p != scene.place]
    motions = a.SOLO_MOTIONS if len(scene.actors) == 1 else a.PAIR_MOTIONS
    motion = str(rng.choice([m for m in motions if m != scene.motion]))
    cast = cast_of(story)
    here = tuple(cast.index(actor) for actor in scene.actors)
    subject = _subject(cast, here, scene.names_actors)
    return write_caption(subject, len(here) == 2, motion, str(rng.choice(places)), False)


def cast_of(story: Sequence[Scene]) -> tuple[Actor, ...]:
    """All actors of a story, in the order in which they come."""
    return tuple(dict.fromkeys(actor for scene in story for actor in scene.actors))


def unnamed(story: Sequence[Scene]) -> tuple[Scene, ...]:
    """The scenes with captions that describe no actor: "it", "they", "the first one"."""
    cast, scenes = cast_of(story), []
    for scene in story:
        here = tuple(cast.index(actor) for actor in scene.actors)
        subject = _subject(cast, here, False)
        caption = write_caption(subject, len(here) == 2, scene.motion, scene.place, scene.returns)
        scenes.append(replace(scene, caption=caption, names_actors=False))
    return tuple(scenes)


def draw_picture(
    rng: np.random.Generator, story: Sequence[Scene], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """All actors of a story, standing by day at a place where no scene is, if there is one."""
    used = {scene.place for scene in story}
    places = [place for place in a.PLACES if place not in used] or list(a.PLACES)
    scene = replace(
        story[0],
        actors=cast_of(story),
        motion="jump",  # of which the first frame is taken: they stand
        place=str(rng.choice(places)),
        arrangement=int(rng.integers(len(a.ARRANGEMENTS))),
        light="day",
        frames=LEAST_FRAMES,
    )
    return draw_scene(scene, scene_paths(scene, rng), size)[0]


def _draw_cast(rng: np.random.Generator, held_out: bool) -> tuple[Actor, ...]:
    bodies = [(body, colour) for body in a.BODIES for colour in a.COLOURS]
    first = _dressed(rng, *bodies[rng.integers(len(bodies))], held_out)
    if rng.random() >= _PAIR:
        return (first,)
    others = [
        pair
        for pair in bodies
        if pair[1] != first.colour and (_kind(Actor(*pair)) - _kind(first)) % 4 == 0
    ]
    return first, _dressed(rng, *others[rng.integers(len(others))], held_out)


def _dressed(rng: np.random.Generator, body: str, colour: str, held_out: bool) -> Actor:
    part = str(rng.choice(a.PARTS))
    known = [pattern for pattern in a.PATTERNS if pattern != a.NEW_PATTERN]
    pattern = str(rng.choice(known))
    if held_out and rng.random() < _NEW_PATTERN:
        pattern = a.NEW_PATTERN
    second = str(rng.choice(list(a.SECOND_COLOURS)))
    return Actor(body, colour, part, pattern, "" if pattern == "plain" else second)


def _draw_places(rng: np.random.Generator, scenes: int) -> list[str]:
    new = [a.PLACES[i] for i in rng.permutation(len(a.PLACES))]
    places = [new.pop()]
    while len(places) < scenes:
        seen = sorted(set(places) - {places[-1]})
        if seen and (not new or rng.random() < _RETURN):
            places.append(seen[rng.integers(len(seen))])
        else:
            places.append(new.pop())
    return places


def _subject(cast: Sequence[Actor], here: Sequence[int], names: bool) -> str:
    if names:
        return " and ".join(name_actor(cast[i].named) for i in here)
    if len(cast) == 1:
        return "it"
    return "they" if len(here) == 2 else ONES[here[0]]


class StoryworldSource:
    """Random access to `length` stories; story i depends on (seed, held_out, i) and sizes alone."""

    def __init__(
        self,
        seed: int,
        lengths: Sequence[Sequence[int]],
        size: int,
        held_out: bool,
        length: int,
        in_a_row: int = 1,
    ) -> None:
        """`lengths` has the frames of each scene; stories take the entries in turn.

        Each entry is that of `in_a_row` stories one after another, so that a batch may have one.
        Raises ValueError for sizes that cannot be.
        """
        if not lengths or min(map(len, lengths)) < 1 or min(map(min, lengths)) < LEAST_FRAMES:
            raise ValueError(
                f"lengths must be of scenes of at least {LEAST_FRAMES} frames, got {lengths}"
            )
        if size < LEAST_SIZE:
            raise ValueError(f"size must be at least {LEAST_SIZE}, got {size}")
        if seed < 0 or length < 0 or in_a_row < 1:
            raise ValueError(f"needs {seed=} and {length=} from 0 on, {in_a_row=} from 1 on")
        self.seed, self.size, self.held_out, self.length = seed, size, held_out, length
        self.lengths = tuple(tuple(entry) for entry in lengths)
        self.in_a_row = in_a_row

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Story:
        """Raises IndexError unless 0 <= index < len(self)."""
        if not 0 <= index < self.length:
            raise IndexError(f"story {index} of a source of {self.length}")
        rng = np.random.default_rng([self.seed, int(self.held_out), index])
        lengths = self.lengths[index // self.in_a_row % len(self.lengths)]
        scenes = draw_story(rng, lengths, self.held_out)
        longest = max(map(max, self.lengths))
        video = np.zeros((len(scenes), longest, self.size, self.size, 3), np.uint8)
        for number, scene in enumerate(scenes):
            paths = scene_paths(scene, rng)
            video[number, : scene.frames] = draw_scene(scene, paths, self.size)
        return {
            "video": video,
            "captions": [scene.caption for scene in scenes],
            "global_prompt": GLOBAL_PROMPTS[scenes[0].light],
            "scenes": scenes,
        }
