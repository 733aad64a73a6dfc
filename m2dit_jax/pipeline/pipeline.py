"""One object makes stories: prompts and given clips in, frames out."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from m2dit_jax.pipeline.build import StoryBuilder
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.pipeline.memory_plan import StorySize
from m2dit_jax.pipeline.story import Story
from m2dit_jax.stories.explain import explain
from m2dit_jax.stories.history import History, read_build, read_history, write_build
from m2dit_jax.stories.inputs import Inputs, clip_identity
from m2dit_jax.stories.output import SCENES, check_output, only_story_in, write_scene
from m2dit_jax.stories.plan import StoryPlan, plan_story
from m2dit_jax.stories.progress import Report, silent
from m2dit_jax.stories.store import MemoryStore, SceneStore
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.stories.walk import Outcome
from m2dit_jax.stories.yaml import StoryboardError


class Pipeline(Engine):
    """A model that makes stories when it is called; `load` opens one."""

    def __call__(
        self,
        story: Storyboard | Sequence[str],
        *,
        folder: Path | str | None = None,
        on_step: Report = silent,
        **options: Any,
    ) -> Story:
        """Makes a story from a storyboard, or from one prompt per scene.

        `options` are fields of a storyboard (`seed`, `steps`, `guidance_scale`, ...) and replace
        its own. With `folder` all is written there as it is finished, what the folder has of the
        same story is kept, and an interrupted call goes on; else the story is kept in memory until
        `Story.save`. `on_step` gets a StoryProgress after every step; an exception out of it ends
        the story. Raises StoryboardError, naming field and value, before any long work.
        """
        storyboard = self._storyboard(story, options)
        if folder is None:
            return self._build(storyboard, MemoryStore(lambda: self.content), on_step)
        folder = Path(folder)
        check_output(storyboard, folder)
        with ExitStack() as stack:
            return self._build_in(storyboard, folder, on_step, stack)

    def _build_in(
        self, storyboard: Storyboard, folder: Path, on_step: Report, stack: ExitStack
    ) -> Story:
        """Makes a story in a folder, which from its first file on is locked until `stack` ends."""
        started = time.monotonic()
        previous = read_build(folder)

        def prepare(plan: StoryPlan, builder: StoryBuilder) -> None:
            stack.enter_context(only_story_in(folder))
            if previous:
                lines = explain(builder.outlook(), previous, builder.store.problem)
                self.networks.say("\n".join(lines))

        made = self._build(
            storyboard,
            SceneStore(folder / SCENES, lambda: self.content),
            on_step,
            prepare,
            lambda plan, scene, frames: write_scene(folder, scene, frames, plan.settings),
            lambda plan, outcomes: write_build(folder, _inputs(previous, outcomes, plan)),
            read_history(folder),
        )
        made.save(folder, seconds=round(time.monotonic() - started, 3))
        return made

    def extend(
        self,
        story: Story,
        prompts: Sequence[str],
        *,
        on_step: Report = silent,
        **options: Any,
    ) -> Story:
        """The story with more scenes, one per prompt; those that it has are kept and given.

        Given are their latents, not frames that were encoded anew. Settings are those of the story;
        `options` replace them. Raises StoryboardError as a call does.
        """
        old = story.storyboard
        kept = [
            scene
            if scene.is_reference
            else scene.replace(
                image=None,
                use="reference",
                video=frames,
                frames=len(frames),
                take=0,
                keep=False,
            )
            for scene, frames in zip(old.scenes, story.frames, strict=True)
        ]
        added = [Scene(prompt=prompt) for prompt in prompts]
        longer = old.replace(scenes=(*kept, *added)).override(options)
        store = MemoryStore(lambda: self.content)

        def prepare(plan: StoryPlan, builder: StoryBuilder) -> None:
            for scene in range(len(kept)):
                identity = clip_identity(plan, self.fingerprint, scene)
                latents = story.latents(scene)
                if latents is not None:
                    store.put_latents(identity.key, latents, {"inputs": identity.inputs})

        return self._build(longer, store, on_step, prepare)

    def explain(self, storyboard: Storyboard, folder: Path) -> list[str]:
        """A line for each scene: whether a call with this folder would make it, and why.

        Makes nothing. Raises StoryboardError as a call does.
        """
        notes, lines = self.look_ahead(storyboard, folder)
        for note in notes:
            self.networks.say(note)
        return lines

    def look_ahead(self, storyboard: Storyboard, folder: Path) -> tuple[tuple[str, ...], list[str]]:
        """What a call would note of the prompts, and the lines of `explain`; says nothing."""
        check_output(storyboard, folder)
        plan = plan_story(storyboard, self)
        store = SceneStore(folder / SCENES, lambda: self.content)
        builder = StoryBuilder(plan, self, store, read_history(folder))
        return plan.notes, explain(builder.outlook(), read_build(folder), store.problem)

    def _storyboard(
        self, story: Storyboard | Sequence[str], options: Mapping[str, Any]
    ) -> Storyboard:
        if isinstance(story, Storyboard):
            return story.override(options)
        if isinstance(story, str):
            raise TypeError(f"needs a list of prompts, one per scene, found the text {story!r}")
        scenes = [{"prompt": prompt} for prompt in story]
        return Storyboard.from_mapping({"scenes": scenes, **options})

    def _build(
        self,
        storyboard: Storyboard,
        store: SceneStore,
        on_step: Report,
        prepare: Callable[[StoryPlan, StoryBuilder], None] = lambda plan, builder: None,
        on_scene: Callable[[StoryPlan, int, UInt8[np.ndarray, "F H W 3"]], None] = (
            lambda plan, scene, frames: None
        ),
        on_group: Callable[[StoryPlan, dict[int, Outcome]], None] = lambda plan, outcomes: None,
        history: History = MappingProxyType({}),
    ) -> Story:
        plan = plan_story(storyboard, self)
        for note in plan.notes:
            self.networks.say(note)
        builder = StoryBuilder(plan, self, store, history)
        prepare(plan, builder)
        self.networks.prepare(_size(plan))
        if plan.lora_digests and self.networks.plan.policy == "stream":
            raise StoryboardError(
                "lora: adapters of a storyboard do not go with blocks that come from host memory; "
                "needs --memory=resident or offload, or --lora, which is for all scenes"
            )
        outcomes = builder.build(
            on_step,
            lambda scene, frames: on_scene(plan, scene, frames),
            lambda outcomes: on_group(plan, outcomes),
        )
        for scene, outcome in sorted(outcomes.items()):
            if outcome.failed:
                failures = "; ".join(outcome.attempts[-1].verdict.failures)
                self.networks.say(f"scene {scene + 1} failed its checks to the end: {failures}")
        return Story(plan, outcomes, store, dict(self.facts.provenance))


def _size(plan: StoryPlan) -> StorySize:
    """The most that is denoised at once, whose scenes may differ in length and guidance."""
    settings, everyone = plan.settings, range(len(plan.storyboard.scenes))
    options = plan.options(everyone)
    rows = 1 + options.needs_negative * (1 + (options.given_guidance_scale is not None))
    scenes, frames = min(settings.window, len(everyone)), max(map(plan.frames, everyone))
    return StorySize(scenes, frames, settings.height, settings.width, rows)


def _inputs(
    previous: Mapping[int, Inputs], outcomes: Mapping[int, Outcome], plan: StoryPlan
) -> dict[int, Inputs]:
    """Inputs of the scenes that are built; those of the others are of the build before."""
    built = {scene: outcome.identity.inputs for scene, outcome in outcomes.items()}
    kept = {s: inputs for s, inputs in previous.items() if s < len(plan.storyboard.scenes)}
    return kept | built
