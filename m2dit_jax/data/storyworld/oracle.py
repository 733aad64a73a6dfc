"""Reads back from pixels what a scene shows, named or not; what is not clear is None.

Nothing is learned: the nearest scene of all that can be drawn (`fitting`) says what there is, and
how much worse the nearest one is that differs in an attribute says how clear that is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.data.storyworld.captions import light_of, parse_captions
from m2dit_jax.data.storyworld.drawing import Path
from m2dit_jax.data.storyworld.fitting import FittedActor, FittedPlace, FittedScene, fit_scene
from m2dit_jax.data.storyworld.paths import JUMP, LEAST_FRAMES, MEET, WALK

# Errors of places are shares of their greatest value, see `fit_place`.
MOST_PLACE_ERROR = 0.5
LEAST_PLACE_LEAD = 0.06
LEAST_ARRANGEMENT_LEAD = 0.03
# Mean squares of colours by day. A body of another shape differs in few pixels.
MOST_ACTOR_ERROR = 2500.0
LEAST_LEAD = 0.15  # of the error, that another body, part, pattern or colour must be worse by
LEAST_FACING = 0.8  # change of the direction of looking that makes a turn


@dataclass(frozen=True)
class ActorReading:
    """What is recognised of an actor; `second` is "" for a plain one."""

    body: str | None
    colour: str | None
    part: str | None
    pattern: str | None
    second: str | None

    @property
    def look(self) -> tuple[str, str] | None:
        """Pattern and second colour, if both are clear."""
        if self.pattern is None or self.second is None:
            return None
        return self.pattern, self.second


@dataclass(frozen=True)
class Reading:
    """What is recognised of a scene, actors from left to right; and the scene that is nearest."""

    place: str | None
    arrangement: int | None
    light: str | None
    actors: tuple[ActorReading, ...]
    motion: str | None
    nearest: FittedScene


def read_scene(video: np.ndarray, refinements: int = 2) -> Reading:
    """Reads a scene as `drawing.draw_scene` draws it, each attribute on its own.

    Raises ValueError unless it is square, of 3 frames or more, and uint8.
    """
    if (
        video.dtype != np.uint8
        or video.ndim != 4
        or len(video) < LEAST_FRAMES
        or video.shape[1] != video.shape[2]
    ):
        raise ValueError(
            f"needs uint8 frames [F >= {LEAST_FRAMES}, S, S, 3], got {video.dtype} {video.shape}"
        )
    fitted = fit_scene(video, refinements)
    place, arrangement, light = _read_place(fitted.background)
    known = place is not None and light is not None
    actors = tuple(_read_actor(actor, known) for actor in fitted.actors)
    motion = _read_motion([actor.path for actor in fitted.actors]) if known else None
    return Reading(place, arrangement, light, actors, motion, fitted)


def find_misfits(
    prompts: Sequence[str], global_prompt: str, scene: int, video: UInt8[np.ndarray, "F S S 3"]
) -> list[str]:
    """What a scene shows otherwise than its prompts ask, of those that are captions.

    Nothing is said of scenes of too few frames.
    """
    if len(video) < LEAST_FRAMES:
        return []
    wanted, found = parse_captions(prompts)[scene], read_scene(video)
    asked: dict[str, tuple[object, object]] = {}
    light = light_of(global_prompt)
    if light is not None:
        asked["light"] = light, found.light
    if wanted is not None:
        asked["place"], asked["motion"] = (
            (wanted.place, found.place),
            (wanted.motion, found.motion),
        )
        asked["number of actors"] = len(wanted.actors), len(found.actors)
        if len(wanted.actors) == len(found.actors):
            for number, (actor, read) in enumerate(
                zip(wanted.actors, found.actors, strict=True), 1
            ):
                of = f" of actor {number}" if len(wanted.actors) > 1 else ""
                for name, value in zip(("body", "colour", "part"), actor, strict=True):
                    asked[name + of] = value, getattr(read, name)
    return [
        f"{name} is {'not to be recognised' if there is None else there}, not {value}"
        for name, (value, there) in asked.items()
        if value != there
    ]


def _read_place(fitted: FittedPlace) -> tuple[str | None, int | None, str | None]:
    """Place, arrangement and light, each if the nearest candidate with another is clearly worse."""
    errors = fitted.errors
    light, place, arrangement = np.unravel_index(errors.argmin(), errors.shape)
    best = errors.min()
    if best > MOST_PLACE_ERROR:
        return None, None, None
    other_light = np.delete(errors, light, axis=0).min() - best
    other_place = np.delete(errors, place, axis=1).min() - best
    other_arrangement = np.delete(errors[light, place], arrangement).min() - best
    clear = other_place >= LEAST_PLACE_LEAD
    return (
        fitted.place if clear else None,
        fitted.arrangement if clear and other_arrangement >= LEAST_ARRANGEMENT_LEAD else None,
        fitted.light if other_light >= LEAST_PLACE_LEAD else None,
    )


def _read_actor(fitted: FittedActor, known: bool) -> ActorReading:
    errors, actor = fitted.errors, fitted.actor
    best = float(errors.min())
    places = np.unravel_index(errors.argmin(), errors.shape)
    if not known or best > MOST_ACTOR_ERROR:
        return ActorReading(None, None, None, None, None)

    def clear(axis: int) -> bool:
        other = float(np.delete(errors, places[axis], axis=axis).min())
        return other - best >= LEAST_LEAD * best

    pattern = actor.pattern if clear(2) else None
    return ActorReading(
        actor.body if clear(0) else None,
        actor.colour if clear(3) else None,
        actor.part if clear(1) else None,
        pattern,
        actor.second if actor.pattern == "plain" or clear(4) else None,
    )


def _read_motion(paths: Sequence[Path]) -> str | None:
    """The motion that all actors have, or that both have towards each other."""
    if not paths:
        return None
    number = len(paths)
    each = [_actor_motion(path, WALK.get(number, WALK[2])) for path in paths]
    if number == 2 and _way(paths[0]) > MEET / 2 and _way(paths[1]) < -MEET / 2:
        return "meet"
    return each[0] if len(set(each)) == 1 and (number == 1 or each[0] != "turn") else None


def _actor_motion(path: Path, walk: float) -> str | None:
    way, frames = _way(path), len(path.x)
    arc = 4 * np.linspace(0, 1, frames) * np.linspace(1, 0, frames)
    centred = arc - arc.mean()
    height = -float((path.y - path.y.mean()) @ centred / (centred @ centred))
    if abs(way) > walk / 3:
        direction = 1 if way > 0 else -1
        looks = float(np.median(path.facing)) * direction > 0.2
        return ("right" if way > 0 else "left") if looks and height < JUMP / 3 else None
    if height > JUMP / 2:
        return "jump"
    turned = float(path.facing[-1] - path.facing[0])
    return "turn" if turned > LEAST_FACING else None


def _way(path: Path) -> float:
    """How far an actor gets to the right: by a line through its places."""
    time = np.linspace(-0.5, 0.5, len(path.x))
    return float(time @ path.x) / float(time @ time)
