"""A scene of a storyboard: its fields and what of them goes together."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import AfterValidator, BeforeValidator, Field

from m2dit_jax.models.family import split_expert
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.utils.options import (
    Frames,
    Options,
    Scale,
    Seed,
    Share,
    Take,
    Text,
    option,
    same_option,
)
from m2dit_jax.utils.remote.bucket import is_remote

Clip = UInt8[np.ndarray, "F H W 3"]
Picture = UInt8[np.ndarray, "H W 3"]
Use = Literal["reference", "first_frame"]

_PROMPT = "a text that says what the scene shows"
_MIDDLE = 0.5


LORA_NEEDED = "a list of files, each FILE or FILE:WEIGHT such as style.safetensors:0.8"


def _as_files(lora: Any) -> Any:
    files = [lora] if isinstance(lora, str | Path) else lora
    if not isinstance(files, list | tuple):
        return files
    return tuple(str(file) if isinstance(file, Path) else file for file in files)


Lora = Annotated[tuple[Text, ...], BeforeValidator(_as_files)]


def lora_in(folder: Path, lora: str) -> str:
    """FILE or FILE:WEIGHT with an absolute path, from the folder on; an address as it is.

    An expert that it begins with stays: high_noise=FILE.
    """
    expert, file = split_expert(lora)
    if expert is not None:
        return f"{expert}={lora_in(folder, file)}"
    with suppress(ValueError):  # of another kind of address: no such file
        if is_remote(lora):
            return lora
    return str((folder / Path(lora).expanduser()).absolute())


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError(_PROMPT)
    return prompt.strip()


def _crops_a_clip(crop: float, info: Any) -> float:
    if crop != _MIDDLE and all(info.data.get(name, 0) is None for name in ("video", "image")):
        raise ValueError("a scene with a video or an image, of which it chooses a part")
    return crop


def _as_path(video: Any) -> Any:
    return Path(video) if isinstance(video, str) else video


def _without_video(image: Path | Picture | None, scene: Any) -> Path | Picture | None:
    if image is not None and scene.data.get("video") is not None:
        raise ValueError("a scene without video")
    return image


def _of_an_image(use: str, scene: Any) -> str:
    if use != "reference" and "image" in scene.data and scene.data["image"] is None:
        raise ValueError("a scene with an image, which it is about")
    return use


def _is_reference(fields: Mapping[str, Any]) -> bool:
    return fields.get("image") is not None and fields.get("use", "reference") == "reference"


def _of_a_scene(frames: int | None, scene: Any) -> int | None:
    if frames not in (None, 1) and _is_reference(scene.data):
        raise ValueError("1 or nothing: a reference is a single picture")
    return frames


def _without_clip(value: int, scene: Any) -> int:  # ValidationInfo, which isinstance cannot tell
    if value and scene.data.get("video") is not None:
        raise ValueError("a scene without video; a clip is kept as it is, and has no takes")
    if value and _is_reference(scene.data):
        raise ValueError("a scene that is no reference; a picture is kept as it is")
    return value


class Scene(Options, frozen=True):
    """A scene of a storyboard; settings that it leaves out are the story's.

    `video` is the clip of a scene that is given, a file or its frames; without it the scene is
    generated. Without a seed of its own a scene draws by that of the story and its place.
    """

    prompt: Annotated[Text, AfterValidator(_not_blank)] = Field(
        description="What the scene shows.",
        json_schema_extra={"needed": _PROMPT, "affects": "scene"},
    )
    video: Annotated[Path | Clip | None, BeforeValidator(_as_path)] = option(
        None,
        "Clip of a scene that is given: kept as it is, and the story goes on from it.",
        affects="scene",
        needed="the path of a video, or its frames as an array uint8 [F H W 3]",
    )
    image: Annotated[
        Path | Picture | None, BeforeValidator(_as_path), AfterValidator(_without_video)
    ] = option(
        None,
        "Picture, PNG, JPEG or WebP; `use` says what for.",
        affects="scene",
        needed="the path of a picture, or its pixels as an array uint8 [H W 3]",
    )
    use: Annotated[Use, AfterValidator(_of_an_image)] = option(
        "reference",
        "What the picture is for: reference, a character or place that all scenes see, which is "
        "no part of the video and stands before all scenes; first_frame, what the scene begins "
        "with.",
        affects="scene",
    )
    crop: Annotated[Share, AfterValidator(_crops_a_clip)] = option(
        _MIDDLE,
        "Which part of a clip or picture of another shape is kept: 0 is the left or the top, 0.5 "
        "the middle, 1 the right or the bottom.",
        affects="scene",
    )
    negative_prompt: Text | None = same_option(StoryOptions, "negative_prompt", None)
    guidance_scale: Scale | None = same_option(StoryOptions, "guidance_scale", None)
    frames: Annotated[Frames | None, AfterValidator(_of_a_scene)] = same_option(
        StoryOptions, "frames", None
    )
    seed: Seed | None = same_option(StoryOptions, "seed", None)
    cut: bool = option(
        False,
        "The check `cut` asks for a cut between the scene before and this one.",
        affects="checks",
    )
    take: Annotated[Take, AfterValidator(_without_clip)] = option(
        0,
        "Number of the take: another one draws other noise for this scene alone; all are kept, and "
        "going back to one finds it.",
        affects="scene",
    )
    lora: Lora | None = option(
        None,
        "Files of adapters of this scene, FILE or FILE:WEIGHT, instead of the story's; the "
        "tokens of other scenes go without them.",
        affects="scene",
        needed=LORA_NEEDED,
    )
    keep: Annotated[bool, AfterValidator(_without_clip)] = option(
        False,
        "The scene stays as it was made in the output folder, whatever has changed, and is given "
        "to the others; it is found by its prompt and take.",
    )

    @property
    def given(self) -> bool:
        """Whether the scene is a clip or a picture that is kept as it is."""
        return self.video is not None or self.is_reference

    @property
    def is_reference(self) -> bool:
        """Whether the scene is a picture that others see, and no part of the video."""
        return self.image is not None and self.use == "reference"

    @property
    def first_frame(self) -> bool:
        """Whether the scene is generated and begins with a picture."""
        return self.image is not None and self.use == "first_frame"

    def to_mapping(self, video: Path | str | None = None) -> dict[str, Any]:
        """The scene in a storyboard file, fit for JSON; all files by their absolute path.

        `video` is where one can be read that was given as frames or pixels. Raises ValueError
        without it.
        """
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        values = {n: value for n, value in vars(self).items() if value is not defaults[n]}
        sources = {"video": ("frames", self.video), "image": ("pixels", self.image)}
        for name, (what, source) in sources.items():
            if source is None:
                continue
            path = source if isinstance(source, Path) else video
            if path is None:
                raise ValueError(f"{name}: {what} in memory have no path, needs that of a copy")
            values[name] = str(Path(path).absolute())
        if self.lora is not None:
            values["lora"] = [lora_in(Path(), lora) for lora in self.lora]
        return values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scene):
            return False
        mine, others = dict(vars(self)), dict(vars(other))
        same = all(np.array_equal(mine.pop(x), others.pop(x)) for x in ("video", "image"))
        return same and mine == others
