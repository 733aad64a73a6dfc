"""Videos of the takes of a story's scenes, to compare them: written once, from what was kept."""

from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.stories.history import read_takes
from m2dit_jax.stories.output import SCENES
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.utils.media import write_mp4

_FOLDER = "takes"  # of a story


def take_videos(
    folder: Path, prompts: Sequence[str], fps: int | float
) -> dict[int, dict[int, Path]]:
    """The videos of all takes by scene, from 0, and take; only of scenes with several takes."""
    store = SceneStore(folder / SCENES)
    found: dict[int, dict[int, Path]] = {}
    for scene, prompt in enumerate(prompts):
        keys = read_takes(folder, scene, prompt)
        if len(keys) > 1:
            videos = {take: _video(folder, store, key, fps) for take, key in keys.items()}
            found[scene] = {take: path for take, path in videos.items() if path is not None}
    return found


def _video(folder: Path, store: SceneStore, key: str, fps: int | float) -> Path | None:
    """The video of a take; None if its frames are gone."""
    path = folder / _FOLDER / f"{key[:24]}-{fps:g}.mp4"
    if path.is_file():
        return path
    try:
        frames = store.frames(key)
    except KeyError:
        return None
    path.parent.mkdir(exist_ok=True)
    write_mp4(path, frames, fps)
    return path
