"""The way through a story, group by group: what is known, what is pending, what failed."""

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from m2dit_jax.stories.gate import Verdict
from m2dit_jax.stories.inputs import Identity, clip_identity, scene_identity
from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.windows import Group, next_group

Status = Literal["given", "kept", "generated", "reused"]


@dataclass(frozen=True)
class Attempt:
    """One drawing of a scene; the first has the number 0."""

    number: int
    identity: Identity
    verdict: Verdict


@dataclass
class Outcome:
    """Result of a scene. A given one has neither group nor attempts; the last attempt counts.

    One that is kept has no attempts: nobody judges it.
    """

    status: Status
    identity: Identity
    group: Group | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the scene never passed the gate."""
        return bool(self.attempts) and not self.attempts[-1].verdict.passed


class StoryWalk:
    """State of a story on its way: which group comes next, and how those before went.

    A scene that fails is drawn again until its retries are used up, and no attempt of it is given
    to others; `known` has the keys of those that may be. `standing` are the scenes that are there
    before anything is made, and are given to others (`stories.keeping`).
    """

    def __init__(self, plan: StoryPlan, model: str, standing: Mapping[int, Outcome] | None = None):
        self.plan = plan
        self.model = model
        self.outcomes: dict[int, Outcome] = {}
        self.known: dict[int, str] = {}
        self._attempts: dict[int, list[Attempt]] = {}
        for scene, given in enumerate(plan.storyboard.given):
            if given:
                self.outcomes[scene] = Outcome("given", clip_identity(plan, model, scene))
                self.known[scene] = self.outcomes[scene].identity.key
        for scene, outcome in (standing or {}).items():
            self.outcomes[scene] = replace(outcome)
            self.known[scene] = outcome.identity.key
        # Windows slide over the scenes of the video; references are given to all of them.
        self._references = plan.storyboard.references
        scenes = range(self._references, len(plan.storyboard.scenes))
        # Ascending, as a story may have many thousands; counted from the first of the video.
        self._pending = [s - self._references for s in scenes if s not in self.outcomes]
        self._known = [s - self._references for s in scenes if s in self.known]

    def next_group(self) -> Group | None:
        """The group that comes next; None when the story is finished."""
        if not self._pending:
            return None
        first = self._references
        group = next_group(self._pending, self._known, self.plan.windows)
        return Group(
            tuple(first + scene for scene in group.new),
            (*range(first), *(first + scene for scene in group.context)),
        )

    def identities(self, group: Group) -> dict[int, Identity]:
        """Identities of the group's new scenes."""
        attempts = {scene: self.attempt(scene) for scene in group.new}
        return {
            scene: scene_identity(self.plan, self.model, group, self.known, attempts, scene)
            for scene in group.new
        }

    def judge_standing(self, scene: int, verdict: Verdict) -> None:
        """Notes what the gate finds of a scene that stands; one that fails is given to nobody."""
        outcome = self.outcomes[scene]
        outcome.attempts = [Attempt(0, outcome.identity, verdict)]
        if not verdict.passed:
            del self.known[scene]
            self._known.remove(scene - self._references)

    def attempt(self, scene: int) -> int:
        """The number of the scene's next drawing."""
        return len(self._attempts.get(scene, []))

    def settle(
        self, scene: int, group: Group, identity: Identity, verdict: Verdict, reused: bool
    ) -> None:
        """Notes how a scene came out; called for all of a group's, in the order of the story."""
        attempts = self._attempts.setdefault(scene, [])
        attempts.append(Attempt(len(attempts), identity, verdict))
        if not verdict.passed and len(attempts) <= self.plan.settings.retries:
            return
        status = "reused" if reused else "generated"
        self.outcomes[scene] = Outcome(status, identity, group, attempts)
        number = scene - self._references
        del self._pending[bisect_left(self._pending, number)]
        if verdict.passed:
            self.known[scene] = identity.key
            insort(self._known, number)
