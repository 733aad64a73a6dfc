"""A long story in pieces that fit the model: which scenes are generated next, and beside which.

The reference stops at the number of scenes that it was trained with. Here a window of that size
slides over the story (extension, Mask²DiT section 3.3, again and again).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Windows(NamedTuple):
    """The windows of a long story.

    `window` scenes at most go through the model at once, and, where enough others are known,
    `new_scenes` of them are generated and the rest given. With `anchor` the story's first scene is
    given always, against drift, beside the nearest ones.
    """

    window: int
    new_scenes: int
    anchor: bool


class Group(NamedTuple):
    """Scenes that are generated together, and those that are given to them; places from 0."""

    new: tuple[int, ...]
    context: tuple[int, ...]

    @property
    def scenes(self) -> tuple[int, ...]:
        """All, in the order of the story."""
        return tuple(sorted(self.new + self.context))


def next_group(pending: Sequence[int], known: Sequence[int], windows: Windows) -> Group:
    """The first scenes that are still to be generated, with the nearest of those that are known.

    Both are in ascending order. A story that fits into the window is generated as one. Of two known
    scenes that are equally near the earlier is given. Takes time by the window, not by the story's
    length. Raises ValueError if nothing is pending or the windows cannot be.
    """
    if not pending:
        raise ValueError("no scene is pending")
    check_windows(windows)
    room = windows.window - min(len(known), windows.window - windows.new_scenes)
    # What is further than a window away is not generated together, though there may be room.
    near = pending[: bisect_left(pending, pending[0] + windows.window)]
    new = tuple(near[:room])
    context = _nearest(known, new, windows.window - len(new))
    if windows.anchor and len(context) >= 2 and known[0] == 0 and 0 not in context:
        context[-1] = 0
    return Group(new, tuple(sorted(context)))


def _nearest(known: Sequence[int], new: Sequence[int], number: int) -> list[int]:
    """So many known scenes, those nearest to one of the new ones first."""
    start, end = bisect_left(known, new[0]), bisect_right(known, new[-1])
    near = known[max(start - number, 0) : end + number]
    return sorted(near, key=lambda s: (min(abs(s - n) for n in new), s))[:number]


def check_windows(windows: Windows) -> None:
    """Raises ValueError if nothing, or more than the window holds, would be generated at once."""
    if not 1 <= windows.new_scenes <= windows.window:
        raise ValueError(
            f"new_scenes {windows.new_scenes} cannot be with a window of {windows.window} scenes, "
            f"needs 1 to {windows.window}"
        )
