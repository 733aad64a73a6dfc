"""A storyboard as the browser's form has it, all text, and back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2dit_jax.stories.storyboard import (
    SCENE_KEYS,
    STORYBOARD_KEYS,
    Storyboard,
    storyboard_from_mapping,
)

_TEXTS = ("prompt", "negative_prompt", "global_prompt", "sampler")
STORY_FIELDS = tuple(
    name
    for name in ("global_prompt", "negative_prompt", "seed", "guidance_scale", "steps", "sampler")
    if name in STORYBOARD_KEYS
)
SCENE_FIELDS = tuple(
    name
    for name in ("prompt", "negative_prompt", "seed", "guidance_scale", "frames")
    if name in SCENE_KEYS
)


@dataclass(frozen=True)
class SceneForm:
    """What the form holds for a scene: text by field, and the clip if it is given."""

    texts: Mapping[str, str] = field(default_factory=dict)
    clip: Path | None = None

    def __hash__(self) -> int:
        # Gradio tells by it whether the form has changed.
        return hash((tuple(sorted(self.texts.items())), self.clip))


def to_storyboard(scenes: Sequence[SceneForm], settings: Mapping[str, str]) -> Storyboard:
    """Empty fields are left to the model. Raises StoryboardError with every problem."""
    told = [
        _filled(scene.texts) | ({} if scene.clip is None else {"video": str(scene.clip.absolute())})
        for scene in scenes
    ]
    return storyboard_from_mapping({"scenes": told, **_filled(settings)})


def to_forms(
    mapping: Mapping[str, Any], clips: Path
) -> tuple[tuple[SceneForm, ...], dict[str, str]]:
    """The forms of a storyboard file's content. Only clips from the folder `clips` are taken."""
    scenes = tuple(
        SceneForm(_texts(scene, SCENE_FIELDS), _own(scene.get("video"), clips))
        for scene in mapping["scenes"]
    )
    return scenes, _texts(mapping, STORY_FIELDS)


def problems(message: str) -> list[str]:
    """A StoryboardError's lines for one who sees a form with numbered scenes, not a file."""
    lines = []
    for line in message.splitlines():
        told = line.removeprefix("storyboard: ")
        told = re.sub(r"^scenes\[(\d+)\]\.?", lambda m: f"Scene {int(m[1]) + 1}, ", told)
        lines.append(told.replace("_", " ", 1) if told.startswith(STORY_FIELDS) else told)
    return lines


def _filled(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: _value(name, text) for name, text in texts.items() if text.strip()}


def _value(name: str, text: str) -> Any:
    """A number where one is meant; other text stays, so that the storyboard's check names it."""
    if name in _TEXTS:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _texts(mapping: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: "" if mapping.get(name) is None else str(mapping[name]) for name in names}


def _own(video: Any, clips: Path) -> Path | None:
    path = None if video is None else Path(str(video))
    return path if path and path.parent.resolve() == clips.resolve() else None
