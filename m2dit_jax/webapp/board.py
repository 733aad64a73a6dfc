"""A storyboard as the browser's form has it, filled in or not, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.utils.options import declared

STORY_FIELDS = tuple(declared(StoryOptions))
# Those with a field of their own; `crop` is shown beside a clip or picture.
SCENE_FIELDS = ("prompt", "crop", "negative_prompt", "seed", "guidance_scale", "frames", "cut")
_BY_BUTTONS = ("keep", "take", "use")
_SCENE_DEFAULTS = {name: option.default for name, option in declared(Scene).items()}
_OPTIONS = {**declared(StoryOptions), **declared(Scene)}  # of the same name they are of one kind
_EMPTY = (None, "", [], ())


@dataclass(frozen=True)
class SceneForm:
    """What a scene's form holds, by the names of a storyboard, and its clip or picture if any."""

    values: Mapping[str, Any] = field(default_factory=dict)
    clip: Path | None = None
    image: Path | None = None

    @property
    def prompt(self) -> str:
        return self.values.get("prompt") or ""

    @property
    def locked(self) -> bool:
        """Whether the scene stays as it was made."""
        return bool(self.values.get("keep"))

    @property
    def take(self) -> int:
        return self.values.get("take") or 0

    @property
    def is_reference(self) -> bool:
        """Whether the scene is a picture that others see, and no part of the video."""
        return self.image is not None and self.values.get("use") != "first_frame"

    @property
    def given(self) -> bool:
        """Whether nothing is made of the scene: it has neither lock nor takes."""
        return self.clip is not None or self.is_reference

    def filled(self, **values: Any) -> "SceneForm":
        """The form with other values for some fields."""
        return replace(self, values={**self.values, **values})


@dataclass(frozen=True)
class Form:
    """The whole form: scenes and settings; what is not filled in is left to the model."""

    scenes: tuple[SceneForm, ...] = (SceneForm(),)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        # By it Gradio sees whether the form has changed.
        return hash(repr(self))

    def to_mapping(self, defaults: StoryOptions | None = None) -> dict[str, Any]:
        """The content of a storyboard file, unchecked; settings as in `defaults` are left out."""
        usual = {} if defaults is None else vars(defaults)
        settings = {
            name: value
            for name, value in _filled(self.settings, STORY_FIELDS).items()
            if name not in usual or value != _plain(name, usual[name])
        }
        return {"scenes": [_scene_mapping(scene) for scene in self.scenes], **settings}

    def to_storyboard(self, defaults: StoryOptions | None = None) -> Storyboard:
        """The storyboard that the form stands for. Raises StoryboardError with every problem."""
        return Storyboard.from_mapping(self.to_mapping(defaults))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], clips: Path) -> "Form":
        """The form of a storyboard's content. Only files from the folder `clips` are taken."""
        scenes = tuple(
            SceneForm(
                _filled(scene, (*SCENE_FIELDS, *_BY_BUTTONS)),
                *(_own(scene.get(name), clips) for name in ("video", "image")),
            )
            for scene in mapping["scenes"]
        )
        return cls(scenes, _filled(mapping, STORY_FIELDS))


def filled_in(shown: Form, settings: Sequence[Any], fields: Sequence[Any]) -> Form:
    """The form that was shown, with what its fields hold now, in their order."""
    width = len(SCENE_FIELDS)
    scenes = tuple(
        scene.filled(**dict(zip(SCENE_FIELDS, fields[width * i : width * (i + 1)], strict=True)))
        for i, scene in enumerate(shown.scenes)
    )
    return Form(scenes, dict(zip(STORY_FIELDS, settings, strict=True)))


def _scene_mapping(scene: SceneForm) -> dict[str, Any]:
    values = _filled(scene.values, (*SCENE_FIELDS, *_BY_BUTTONS))
    values = {name: value for name, value in values.items() if value != _SCENE_DEFAULTS.get(name)}
    if scene.image is None:
        values.pop("use", None)
    if scene.image is None and scene.clip is None:
        values.pop("crop", None)
    files = {"video": scene.clip, "image": scene.image}
    return values | {name: str(path.absolute()) for name, path in files.items() if path}


def _filled(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    found = {name: _plain(name, values.get(name)) for name in names}
    return {name: value for name, value in found.items() if value not in _EMPTY}


def _plain(name: str, value: Any) -> Any:
    """The value of a field as a storyboard file has it; blank text is none."""
    if isinstance(value, str):
        return _OPTIONS[name].from_text(value) if value.strip() else ""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value.is_integer():  # of a browser's number
        return int(value)
    return value


def _own(file: Any, clips: Path) -> Path | None:
    path = None if file is None else Path(str(file))
    return path if path and path.parent.resolve() == clips.resolve() else None
