"""Parts of pages about one scene: pictures of its video, its settings and what it took."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from m2dit_jax.report.document import image_uri, seconds
from m2dit_jax.report.record import SceneRecord
from m2dit_jax.utils.frame_times import evenly_spaced
from m2dit_jax.utils.media import VideoError, video_frames

_THUMBNAILS = 6  # of a scene, from its first frame to its last
_THUMBNAIL_SIDE = 160  # pixels


def thumbnails(path: Path) -> tuple[list[str], int]:
    """Pictures of a video as data URIs, from its first frame to its last, and its frames' number.

    Raises VideoError if it cannot be read.
    """
    small = list(_small_frames(path))
    if not small:
        raise VideoError(f"{path}: holds no video frame")
    chosen = evenly_spaced(len(small), _THUMBNAILS)
    return [image_uri(small[i], quality=88) for i in chosen], len(small)


def _small_frames(path: Path) -> Iterator[Image.Image]:
    for frame in video_frames(path):
        picture = Image.fromarray(frame)
        picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
        yield picture


def common_settings(scenes: Sequence[SceneRecord]) -> dict[str, Any]:
    """Settings that are the same for all scenes that have them, where two or more do."""
    columns = [_own_settings(scene) for scene in scenes]
    common = {}
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column[name] for column in columns if name in column]
        if len(values) > 1 and all(value == values[0] for value in values):
            common[name] = values[0]
    return common


def _own_settings(scene: SceneRecord) -> dict[str, Any]:
    found = {**scene.settings, "steps": scene.steps}
    return {name: value for name, value in found.items() if value is not None}


def scene_settings(scene: SceneRecord, leave_out: Container[str] = ()) -> dict[str, Any]:
    """The settings that a scene was made with, by name; unknown ones are left out."""
    fields = {n: value for n, value in _own_settings(scene).items() if n not in leave_out}
    if scene.clip and scene.status == "given":
        fields["clip"] = scene.clip
    return fields


def scene_neighbours(scene: SceneRecord) -> dict[str, Any]:
    """Which scenes a scene was made from and together with, as links; none if none are known."""
    fields = {}
    if scene.context:
        fields["was given"] = _links(scene.context)
    if scene.made_with:
        fields["made together with"] = _links(scene.made_with)
    return fields


def scene_costs(scene: SceneRecord) -> dict[str, Any]:
    """The time and the evaluations that a scene took; unknown ones are left out."""
    time = None if scene.seconds is None else seconds(scene.seconds)
    fields = {"time": time, "evaluations": scene.evaluations}
    return {name: value for name, value in fields.items() if value is not None}


def _links(numbers: Sequence[int]) -> Markup:
    link = Markup('<a href="#scene-{0}">scene {0}</a>')
    return Markup(", ").join(link.format(number) for number in numbers)
