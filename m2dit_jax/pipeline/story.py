"""A finished story: its frames, what they depend on, and its files."""

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.report.story import write_page
from m2dit_jax.stories.history import write_build
from m2dit_jax.stories.output import (
    SCENES,
    check_output,
    story_digest,
    write_scene,
    write_story,
)
from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.store import MemoryStore, SceneStore
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.walk import Outcome
from m2dit_jax.utils.media import frames_digest, write_mp4


class SceneFrames(Sequence[np.ndarray]):
    """Frames of each scene, read when they are asked for: a long story need not fit in memory."""

    def __init__(self, outcomes: Mapping[int, Outcome], store: SceneStore):
        self._outcomes, self._store = outcomes, store

    def __len__(self) -> int:
        return len(self._outcomes)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self.scene(scene) for scene in range(len(self))[index]]
        return self.scene(range(len(self))[index])  # negative ones count from the end

    def scene(self, scene: int) -> UInt8[np.ndarray, "F H W 3"]:
        """Frames of the scene with this number, from 0."""
        return self._store.frames(self._outcomes[scene].identity.key)


class Story:
    """A finished story: its frames, prompts, settings and outcomes.

    `frames[i]` are those of scene i, uint8 [F H W 3]; `settings` what was sampled with, defaults
    filled in. In a notebook it shows itself as a player.
    """

    def __init__(
        self,
        plan: StoryPlan,
        outcomes: Mapping[int, Outcome],
        store: SceneStore,
        provenance: Mapping[str, Any],
    ):
        self.plan = plan
        self.outcomes = outcomes
        self.store = store
        self.provenance = dict(provenance)
        self.frames = SceneFrames(outcomes, store)

    @property
    def storyboard(self) -> Storyboard:
        """The storyboard as it was asked for."""
        return self.plan.storyboard

    @property
    def settings(self) -> StoryOptions:
        """Size, frame rate and sampling of the story."""
        return self.plan.settings

    @property
    def prompts(self) -> list[str]:
        """One prompt per scene."""
        return [scene.prompt for scene in self.storyboard.scenes]

    @property
    def video(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """All frames of the finished video, one after another: references are no part of it."""
        first = self.storyboard.references
        return chain.from_iterable(map(self.frames.scene, range(first, len(self.frames))))

    @property
    def fps(self) -> float:
        """Frames per second of the written videos."""
        return self.settings.fps

    @property
    def digest(self) -> str:
        """SHA-256 of all frames, as `story.json` has it."""
        return story_digest([frames_digest(frames) for frames in self.frames])

    def latents(self, scene: int) -> Float[np.ndarray, "f h w C"] | None:
        """Latents of a scene as later ones get them; None of a given one that none needed."""
        key = self.outcomes[scene].identity.key
        return None if self.store.about(key) is None else self.store.latents(key)

    def save(self, folder: Path | str, **about: Any) -> Path:
        """Writes what the `sample` command writes, and returns the folder.

        A later call of the pipeline with this folder keeps what did not change. `about` is added to
        story.json. Raises StoryboardError if that would overwrite a given clip.
        """
        folder = Path(folder)
        check_output(self.storyboard, folder)
        store = self.store
        if isinstance(store, MemoryStore):
            folder.mkdir(parents=True, exist_ok=True)
            store = store.copy_to(folder / SCENES)
            for scene, frames in enumerate(self.frames):
                write_scene(folder, scene, frames, self.settings)
            inputs = {s: outcome.identity.inputs for s, outcome in self.outcomes.items()}
            write_build(folder, inputs)
        write_story(
            folder,
            self.plan,
            self.outcomes,
            self.frames.scene,
            store,
            self.provenance | about,
        )
        write_page(folder)
        return folder

    def _repr_html_(self) -> str:
        """The whole story as a player with its prompts."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "story.mp4"
            write_mp4(path, self.video, self.fps)
            video = base64.b64encode(path.read_bytes()).decode()
        prompts = "".join(f"<li>{escape(prompt)}</li>" for prompt in self.prompts)
        return (
            f'<video controls loop muted src="data:video/mp4;base64,{video}"></video>'
            f"<ol>{prompts}</ol>"
        )

    def __repr__(self) -> str:
        size = f"{self.settings.frames} x {self.settings.height} x {self.settings.width}"
        return f"Story of {len(self.frames)} scenes, {size} at {self.fps:g} fps: {self.prompts}"
