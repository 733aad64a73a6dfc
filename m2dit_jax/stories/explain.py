"""What a build would make anew, and why, in words."""

from collections.abc import Mapping

from m2dit_jax.stories.inputs import Inputs, changes
from m2dit_jax.stories.walk import StoryWalk


def explain(forecast: StoryWalk, previous: Mapping[int, Inputs]) -> list[str]:
    """A line for each scene: whether it would be made, and why.

    `forecast` is the walk as it will go; `previous` has the inputs of the build before.
    """
    lines = []
    for scene, outcome in sorted(forecast.outcomes.items()):
        inputs, before = outcome.identity.inputs, previous.get(scene)
        if outcome.status == "given":
            line = "given"
        elif outcome.status == "reused":
            line = "kept" if inputs == before else "kept, from a run before the last"
        elif before is None:
            line = "to be made: new"
        elif not (reasons := changes(before, inputs)):
            line = "to be made: begun, but not finished"
        else:
            line = f"to be made anew: {'; '.join(reasons)}"
        lines.append(f"scene {scene + 1}: {line}")
    return lines
