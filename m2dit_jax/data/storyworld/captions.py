"""Captions: from scenes to words and back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from m2dit_jax.data.plain_text import plain_words
from m2dit_jax.data.storyworld.attributes import BODIES, COLOURS, LIGHTS, PARTS, PLACES

WHERE = {
    "sea": "at the sea",
    "forest": "in the forest",
    "city": "in the city",
    "desert": "in the desert",
    "snow": "in the snow",
    "meadow": "on the meadow",
}
GLOBAL_PROMPTS = {
    "day": "",
    "dusk": "at dusk",
    "morning": "in the morning",
    "night": "at night",
    "fog": "in fog",
}
ONES = ("the first one", "the second one")


def _of_one(verb: str) -> str:
    """The words for one actor, from those for several."""
    first, *rest = verb.split()
    return " ".join([f"{first}s", *rest])


_VERBS = {
    "left": "walk left",
    "right": "walk right",
    "jump": "jump",
    "turn": "turn",
    "meet": "meet",
}
# What several do, and what one does.
_MOTIONS = {words: motion for motion, words in _VERBS.items()}
_MOTIONS |= {_of_one(words): motion for motion, words in _VERBS.items()}
_WEARS = {"none": "", "hat": " with a hat", "ears": " with ears"}
_WORDS = (
    "a",
    "an",
    "and",
    "at",
    "back",
    "first",
    "fog",
    "in",
    "it",
    "jump",
    "jumps",
    "left",
    "meet",
)
_MORE_WORDS = (
    "on",
    "one",
    "right",
    "second",
    "the",
    "they",
    "turn",
    "turns",
    "walk",
    "walks",
    "with",
)

Named = tuple[str, str, str]  # body, colour, part


def vocabulary() -> list[str]:
    """All words that captions use, each once, in an order that never changes."""
    parts = [part for part in PARTS if part != "none"]
    lights = [light for light in LIGHTS if light not in ("day", "fog")]
    return [*_WORDS, *_MORE_WORDS, *COLOURS, *BODIES, *parts, *PLACES, *lights]


def name_actor(actor: Named) -> str:
    """The words for an actor of this body, colour and part."""
    body, colour, part = actor
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {body}{_WEARS[part]}"


def write_caption(subject: str, several: bool, motion: str, place: str, returns: bool) -> str:
    """The caption of a scene; `subject` are the words for its actors."""
    verb = _VERBS[motion] if several else _of_one(_VERBS[motion])
    words = [subject, verb, "back" if returns else "", WHERE[place]]
    return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Meaning:
    """The content of a caption; the actors stand from left to right."""

    actors: tuple[Named, ...]
    motion: str
    place: str


_ACTOR = (
    rf"an? (?P<colour>{'|'.join(COLOURS)}) (?P<body>{'|'.join(BODIES)})"
    r"(?: with (?:a )?(?P<part>hat|ears))?"
)
_WHO = rf"(?P<who>it|they|{'|'.join(ONES)}|an? .+?)"
_DOES = rf"(?P<verb>{'|'.join(_MOTIONS)})"
_CAPTION = re.compile(rf"{_WHO} {_DOES} (?:back )?(?P<where>{'|'.join(WHERE.values())})")


def parse_captions(captions: Sequence[str]) -> list[Meaning | None]:
    """What the captions of a story ask for; None for a text that is no caption, or asks nothing.

    Who "it", "they" and "the first one" are was said by the first caption that names most actors.
    """
    found = [_CAPTION.fullmatch(plain_words(caption)) for caption in captions]
    named = [_named_actors(match["who"]) if match else () for match in found]
    cast = max(named, key=len, default=())  # the first of the longest
    meanings: list[Meaning | None] = []
    for match, actors in zip(found, named, strict=True):
        who = match["who"] if match else ""
        if who == "they" and len(cast) == 2 or who == "it" and len(cast) == 1:
            actors = cast
        elif who in ONES and len(cast) == 2:
            actors = (cast[ONES.index(who)],)
        if match is None or not actors:
            meanings.append(None)
            continue
        place = next(place for place, words in WHERE.items() if words == match["where"])
        meanings.append(Meaning(actors, _MOTIONS[match["verb"]], place))
    return meanings


def _named_actors(words: str) -> tuple[Named, ...]:
    matches = [re.fullmatch(_ACTOR, part) for part in words.split(" and ")]
    return tuple((m["body"], m["colour"], m["part"] or "none") for m in matches if m)


def light_of(global_prompt: str) -> str | None:
    """The light that a global prompt asks for; None for other texts."""
    wanted = plain_words(global_prompt)
    return next((light for light, words in GLOBAL_PROMPTS.items() if words == wanted), None)
