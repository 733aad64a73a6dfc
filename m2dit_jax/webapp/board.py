"""A storyboard as the browser's form has it, all text, and back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.utils.options import Options, declared

STORY_FIELDS = ("global_prompt", "negative_prompt", "seed", "guidance_scale", "steps", "sampler")
SCENE_FIELDS = ("prompt", "negative_prompt", "seed", "guidance_scale", "frames")


@dataclass(frozen=True)
class SceneForm:
    """Content of the form for a scene: text by field, and the clip if it is given."""

    texts: Mapping[str, str] = field(default_factory=dict)
    clip: Path | None = None

    def __hash__(self) -> int:
        # By it Gradio sees whether the form has changed.
        return hash((tuple(sorted(self.texts.items())), self.clip))


def to_storyboard(scenes: Sequence[SceneForm], settings: Mapping[str, str]) -> Storyboard:
    """Storyboard that the form stands for; empty fields are left to the model.

    Raises StoryboardError with every problem.
    """
    filled = [
        _filled(Scene, scene.texts)
        | ({} if scene.clip is None else {"video": str(scene.clip.absolute())})
        for scene in scenes
    ]
    return Storyboard.from_mapping({"scenes": filled, **_filled(Storyboard, settings)})


def to_forms(
    mapping: Mapping[str, Any], clips: Path
) -> tuple[tuple[SceneForm, ...], dict[str, str]]:
    """Forms of a storyboard file's content. Only clips from the folder `clips` are taken."""
    scenes = tuple(
        SceneForm(_texts(scene, SCENE_FIELDS), _own(scene.get("video"), clips))
        for scene in mapping["scenes"]
    )
    return scenes, _texts(mapping, STORY_FIELDS)


def problems(message: str) -> list[str]:
    """Lines of a StoryboardError for one who sees a form with numbered scenes, not a file."""
    lines = []
    for line in message.splitlines():
        line = line.removeprefix("storyboard: ")
        line = re.sub(r"^scenes\[(\d+)\]\.?", lambda m: f"Scene {int(m[1]) + 1}, ", line)
        if line.startswith(STORY_FIELDS):  # the name alone: values are to be typed, such as unip_3
            name, colon, problem = line.partition(":")
            line = name.replace("_", " ") + colon + problem
        lines.append(line)
    return lines


def _filled(model: type[Options], texts: Mapping[str, str]) -> dict[str, Any]:
    fields = declared(model)
    return {name: fields[name].from_text(text) for name, text in texts.items() if text.strip()}


def _texts(mapping: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: "" if mapping.get(name) is None else str(mapping[name]) for name in names}


def _own(video: Any, clips: Path) -> Path | None:
    path = None if video is None else Path(str(video))
    return path if path and path.parent.resolve() == clips.resolve() else None
