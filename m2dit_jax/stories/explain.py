"""What a build would make anew, and why, in words."""

from collections.abc import Callable, Mapping

from m2dit_jax.stories.inputs import Inputs, changes, own_changes
from m2dit_jax.stories.walk import StoryWalk


def explain(
    forecast: StoryWalk,
    previous: Mapping[int, Inputs],
    problem: Callable[[str], str | None] = lambda key: None,
) -> list[str]:
    """A line for each scene: whether it would be made, and why.

    `forecast` is the walk as it will go; `previous` has the inputs of the build before,
    `problem` says why what lies under a scene's key does not count.
    """
    lines = []
    for scene, outcome in sorted(forecast.outcomes.items()):
        inputs, before = outcome.identity.inputs, previous.get(scene)
        if outcome.status == "given":
            line = "given"
        elif outcome.status == "kept":
            reasons = own_changes(forecast.plan, forecast.model, scene, inputs)
            line = "; without it: ".join(
                ["kept, as keep asks", *filter(None, ["; ".join(reasons)])]
            )
        elif outcome.status == "reused":
            line = "kept" if inputs == before else "kept, from a run before the last"
        elif before is None:
            line = "to be made: new"
        elif not (reasons := changes(before, inputs)):
            found = problem(outcome.identity.key)
            line = f"to be made anew: {found}" if found else "to be made: begun, but not finished"
        else:
            line = f"to be made anew: {'; '.join(reasons)}"
        lines.append(f"scene {scene + 1}: {line}")
    return lines
