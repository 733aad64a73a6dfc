"""A storyboard and a model in, a folder of videos out; what `python -m m2dit_jax.sample` does.

Everything before the first network is loaded only checks and prepares, so that whatever is wrong
with the user's input comes out within seconds.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from m2dit_jax.pipeline.build import StoryBuilder
from m2dit_jax.pipeline.maker import StoryMaker
from m2dit_jax.report.story import write_page
from m2dit_jax.stories.inputs import Inputs, changes
from m2dit_jax.stories.output import (
    SCENES,
    check_output,
    read_build,
    write_build,
    write_scene,
    write_story,
)
from m2dit_jax.stories.plan import StoryPlan, plan_story
from m2dit_jax.stories.progress import Report, progress_printer
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.walk import Outcome, StoryWalk


def make_story(
    storyboard: Storyboard, maker: StoryMaker, folder: Path, report: Report | None = None
) -> str:
    """Checks, generates and writes a story with its page; returns the digest of its frames.

    Scenes that the folder has already, made from the same inputs, are kept. What the user should
    know goes to stderr, progress to `report`, else there too. Raises StoryboardError before any
    long work, and before the folder is made, as `check_output` and `plan_story` do.
    """
    started = time.monotonic()
    check_output(storyboard, folder)
    plan = plan_story(storyboard, maker)
    folder.mkdir(parents=True, exist_ok=True)
    for note in plan.notes:
        print(note, file=sys.stderr)
    store = SceneStore(folder / SCENES)
    builder = StoryBuilder(plan, maker, store)
    previous = read_build(folder)
    if previous:
        print("\n".join(_outlook_lines(builder.outlook(), previous)), file=sys.stderr)
    outcomes = builder.build(
        report or progress_printer(),
        lambda scene, frames: write_scene(folder, scene, frames, plan.settings.fps),
        lambda outcomes: write_build(folder, _inputs(previous, outcomes, plan)),
    )
    seconds = {"seconds": round(time.monotonic() - started, 3)}
    digest = write_story(
        folder,
        plan,
        outcomes,
        lambda scene: builder.frames(outcomes[scene]),
        store,
        maker.provenance() | seconds,
    )
    for scene in [scene for scene, outcome in sorted(outcomes.items()) if outcome.failed]:
        failures = "; ".join(outcomes[scene].attempts[-1].verdict.failures)
        print(f"scene {scene + 1} failed its checks to the end: {failures}", file=sys.stderr)
    write_page(folder)
    return digest


def explain_story(storyboard: Storyboard, maker: StoryMaker, folder: Path) -> list[str]:
    """A line for each scene: whether `make_story` would make it, and why. Makes nothing.

    Raises StoryboardError as `make_story` does.
    """
    check_output(storyboard, folder)
    builder = StoryBuilder(plan_story(storyboard, maker), maker, SceneStore(folder / SCENES))
    return _outlook_lines(builder.outlook(), read_build(folder))


def _inputs(
    previous: Mapping[int, Inputs], outcomes: Mapping[int, Outcome], plan: StoryPlan
) -> dict[int, Inputs]:
    """Of the scenes that are built; of the others those of the build before."""
    built = {scene: outcome.identity.inputs for scene, outcome in outcomes.items()}
    kept = {s: inputs for s, inputs in previous.items() if s < len(plan.storyboard.scenes)}
    return kept | built


def _outlook_lines(outlook: StoryWalk, previous: Mapping[int, Inputs]) -> list[str]:
    lines = []
    for scene, outcome in sorted(outlook.outcomes.items()):
        inputs, before = outcome.identity.inputs, previous.get(scene)
        if outcome.status == "given":
            told = "given"
        elif outcome.status == "reused":
            told = "kept" if inputs == before else "kept, from a run before the last"
        elif before is None:
            told = "to be made: new"
        elif not (reasons := changes(before, inputs)):
            told = "to be made: begun, but not finished"
        else:
            told = f"to be made anew: {'; '.join(reasons)}"
        lines.append(f"scene {scene + 1}: {told}")
    return lines
