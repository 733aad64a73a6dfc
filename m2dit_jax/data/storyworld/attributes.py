"""The attributes of actors and scenes: their names, in orders that never change."""

from dataclasses import dataclass

# Of what a seed gives; a run goes on with stories of the version that it began with.
STORYWORLD_VERSION = 1

BODIES = ("ball", "box", "cone", "ghost")
COLOURS = {
    "red": (226, 54, 60),
    "yellow": (255, 216, 50),
    "green": (38, 166, 76),
    "blue": (52, 104, 232),
    "purple": (152, 70, 206),
    "orange": (246, 132, 34),
}
PARTS = ("none", "hat", "ears")
# The last is in no training story.
PATTERNS = ("plain", "rows", "columns", "dots", "checks", "half", "diagonal")
NEW_PATTERN = "diagonal"
SECOND_COLOURS = {"white": (250, 248, 240), "dark": (46, 36, 62)}

PLACES = ("sea", "forest", "city", "desert", "snow", "meadow")
# Which of the slots left, middle, right has the large thing of a place, the small one, and the
# thing in the sky.
ARRANGEMENTS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
LIGHTS = ("day", "dusk", "morning", "night", "fog")

SOLO_MOTIONS = ("left", "right", "jump", "turn")
PAIR_MOTIONS = ("left", "right", "jump", "meet")
MOTIONS = ("left", "right", "jump", "turn", "meet")


@dataclass(frozen=True)
class Actor:
    """An actor by the names of its attributes; `second` is the pattern's colour, "" for plain."""

    body: str
    colour: str
    part: str = "none"
    pattern: str = "plain"
    second: str = ""

    @property
    def named(self) -> tuple[str, str, str]:
        """Body, colour and part, which captions say."""
        return self.body, self.colour, self.part

    @property
    def look(self) -> tuple[str, str]:
        """The pattern and its colour, which no caption says."""
        return self.pattern, self.second


@dataclass(frozen=True)
class Scene:
    """One scene, all of it by name.

    `actors` are those in sight, from left to right; `arrangement` is a position in ARRANGEMENTS;
    `returns` says that the story was at this place before; `frames` is the length.
    """

    actors: tuple[Actor, ...]
    motion: str
    place: str
    arrangement: int
    light: str
    frames: int
    caption: str
    names_actors: bool = True
    returns: bool = False
