"""Problems of a storyboard, each with the field of the form where it is shown."""

import re
from typing import NamedTuple

from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS

_PLACE = re.compile(r"(?:storyboard:(?:\d+:)? ?)")
_OF_SCENE = re.compile(r"scenes\[(\d+)\](?:\.(\w+))?(?:, \w+)*: (.*)", re.DOTALL)
_OF_STORY = re.compile(r"(?:[\w./\\]*\.)?(\w+)(?:, \w+)*: (.*)", re.DOTALL)


class Problem(NamedTuple):
    """A problem of a scene, counted from 0, or of the story; of a field, or of the whole."""

    scene: int | None
    field: str | None
    text: str

    def __str__(self) -> str:
        """A line for one who sees a form with numbered scenes, not a file."""
        place = [] if self.scene is None else [f"Scene {self.scene + 1}"]
        place += [] if self.field is None else [self.field]
        return f"{', '.join(place)}: {self.text}" if place else self.text

    @property
    def is_missing_prompt(self) -> bool:
        """Whether it only says that a prompt is still to be written."""
        return self.field == "prompt" and self.text.startswith("missing")


def read_problems(message: str) -> list[Problem]:
    """The problems in the message of a StoryboardError; other lines are of the whole story."""
    return [_read(line) for line in message.splitlines() if line]


def _read(line: str) -> Problem:
    line = _PLACE.sub("", line)
    if match := _OF_SCENE.fullmatch(line):
        return Problem(int(match[1]), match[2], match[3])
    if (match := _OF_STORY.fullmatch(line)) and match[1] in STORY_FIELDS:
        return Problem(None, match[1], match[2])
    return Problem(None, None, line)


def has_field(problem: Problem) -> bool:
    """Whether the form has a field for it, to show it at."""
    return problem.field in (STORY_FIELDS if problem.scene is None else SCENE_FIELDS)
