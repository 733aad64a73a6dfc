"""Which networks are on the devices, and when: one at a time, or all of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from m2dit_jax.pipeline.memory_plan import MemoryPlan, StorySize

Memory = Literal["auto", "resident", "offload", "stream", "turns"]
MEMORY: tuple[Memory, ...] = ("auto", "resident", "offload", "stream", "turns")

Loader = Callable[[], Any]
Say = Callable[[str], None]
Choose = Callable[[StorySize], MemoryPlan]


def quiet(line: str) -> None:
    """Swallows what the networks say of themselves."""


class NetworkSet:
    """Networks by name, read when they are first asked for.

    In turns, the one that was there before is freed first, so that memory is that of the largest;
    resident, all that were read stay. `say` gets a line when one is read and when it is freed.
    `choose` makes the plan of a story's size, by which the loaders may go; without it the plan is
    that of `resident`.
    """

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        resident: bool,
        say: Say = quiet,
        choose: Choose | None = None,
    ):
        self.plan = MemoryPlan("resident" if resident else "offload")
        self.say = say
        self._choose, self._told = choose, ""
        self._loaders = dict(loaders)
        self._loaded: dict[str, Any] = {}
        self._since: dict[str, float] = {}
        self._together = False

    @property
    def resident(self) -> bool:
        """Whether all networks stay on the devices."""
        return self.plan.resident

    def prepare(self, size: StorySize) -> None:
        """Plans a story of that size, and says so if it is another plan than before."""
        if self._choose is None:
            return
        plan = self._choose(size)
        if plan.placing != self.plan.placing:
            self._loaded.clear()
        self.plan = plan
        if plan.to_text() != self._told:
            self._told = plan.to_text()
            self.say(self._told)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the networks that are on the devices."""
        return tuple(self._loaded)

    def get(self, name: str) -> Any:
        """The network. In turns it must not be kept by the caller beyond the next call."""
        if name not in self._loaded:
            if not (self.resident or self._together):
                self.free()
            if not self.resident:
                self.say(f"{name} ...")
            self._since[name] = time.monotonic()
            self._loaded[name] = self._loaders[name]()
        return self._loaded[name]

    def get_instead(self, name: str, other: str) -> Any:
        """The network; the other is freed before, unless all are resident."""
        self.done(other)
        return self.get(name)

    def done(self, name: str) -> None:
        """Frees a network that is not needed again soon, unless all are resident."""
        if not self.resident and name in self._loaded:
            del self._loaded[name]
            self.say(f"{name}: {time.monotonic() - self._since[name]:.1f} s")

    def free(self) -> None:
        """Frees all that are not resident."""
        for name in list(self._loaded):
            self.done(name)

    @contextmanager
    def session(self, together: bool = False) -> Iterator[None]:
        """Work that needs networks; `together`, none is freed before its end."""
        before, self._together = self._together, together
        try:
            yield
        finally:
            self._together = before
            self.free()
