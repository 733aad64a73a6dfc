"""Cuts a long video into shots, with PySceneDetect (an optional extra)."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from m2dit_jax.data.manifest import Manifest
from m2dit_jax.data.story_table import ClipScene, ManifestStory
from m2dit_jax.data.video import Video, VideoError
from m2dit_jax.utils.extras import how_to_install

_WIDTH = 256  # pixels, as PySceneDetect makes pictures smaller by itself
_RATE = 25.0  # any, as only numbers of frames are asked for
_TIME_LIMIT = 7 * 86400.0  # seconds: films are long


def cut_into_shots(path: Path, root: Path) -> Manifest:
    """One story of all shots, with empty captions that are to be written.

    Raises VideoError if the video is not readable or not within `root`, ImportError, saying what
    to install, without PySceneDetect.
    """
    try:
        import scenedetect  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"cutting a video into shots needs PySceneDetect: {how_to_install('shots')}"
        ) from error
    video = path.resolve()
    if not video.is_relative_to(root.resolve()):
        raise VideoError(f"{path}: is not within the root {root}")
    with closing(Video(video, _TIME_LIMIT, threads=True)) as frames:
        count = frames.frame_count()
        starts = _cuts(frames, scenedetect) - {0}
        bounds = list(pairwise([0, *sorted(starts), count]))
        scenes = tuple(
            _shot(frames, first, after, f"{path}, shot {number}")
            for number, (first, after) in enumerate(bounds, 1)
        )
    return Manifest((ManifestStory(path.stem, scenes),), path, "stories")


def _cuts(video: Video, scenedetect: Any) -> set[int]:
    """Numbers of the frames before which there is a cut.

    The frames are counted here: what PySceneDetect reads by itself has times only, which of AVI
    files with B-frames are wrong.
    """
    detector, cuts, moment = scenedetect.ContentDetector(), [], None
    for number, picture in video.small_frames(_WIDTH):
        moment = scenedetect.FrameTimecode(number, _RATE)
        cuts += detector.process_frame(moment, picture)
    cuts += detector.post_process(moment)
    return {cut.frame_num for cut in cuts}


def _shot(video: Video, first: int, after: int, place: str) -> ClipScene:
    start, end = video.time_at(first), video.time_at(after)
    return ClipScene(
        video.path,
        "",
        round(float(start), 6),
        round(float(end), 6),
        {},
        place,
        first,
        after,
        start,
        end,
    )
