"""Cuts a long video into shots, with PySceneDetect (an optional extra)."""

from pathlib import Path

from m2dit_jax.data.manifest import Manifest
from m2dit_jax.data.story_table import ClipScene, ManifestStory
from m2dit_jax.data.video import VideoError, probe_video
from m2dit_jax.utils.extras import how_to_install


def cut_into_shots(path: Path, root: Path) -> Manifest:
    """One story of all shots, with empty captions that are to be written.

    Raises VideoError if the video is not readable or not within `root`, ImportError, saying what
    to install, without PySceneDetect.
    """
    try:
        from scenedetect import ContentDetector, detect  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"cutting a video into shots needs PySceneDetect: {how_to_install('shots')}"
        ) from error
    video = path.resolve()
    if not video.is_relative_to(root.resolve()):
        raise VideoError(f"{path}: is not within the root {root}")
    info = probe_video(video)
    cuts = detect(str(video), ContentDetector())
    times = [(start.seconds, end.seconds) for start, end in cuts] or [(0.0, info.seconds)]
    scenes = tuple(
        ClipScene(video, "", round(start, 3), round(end, 3), {}, f"{path}, shot {number}")
        for number, (start, end) in enumerate(times, 1)
    )
    return Manifest((ManifestStory(path.stem, scenes),), path, "stories")
