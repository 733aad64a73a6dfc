from typing import Any

import av
import numpy as np
import pytest

from m2dit_jax.data.video import read_frames
from m2dit_jax.utils.media import check_clip, read_clip, write_mp4
from m2dit_jax.utils.video_file import VideoError


def write_with_cover(path, video: bool = True) -> None:
    """A red cover picture first, then a green video."""
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 512, 512, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        stream: Any = container.add_stream(
            "libx264" if video else "aac", rate=8 if video else 44100
        )
        if video:
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        red = np.full((512, 512, 3), (200, 0, 0), np.uint8)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        container.mux(cover.encode(None))
        for number in range(4):
            if video:
                green = np.full((64, 96, 3), (0, 200, 0), np.uint8)
                frame = av.VideoFrame.from_ndarray(green, format="rgb24")
            else:
                silence = np.zeros((2, 1024), np.float32)
                frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = 44100, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_cover_is_not_the_video(tmp_path):
    path = tmp_path / "film.mp4"
    write_with_cover(path)
    for picture in (read_clip(path, 4, 32, 48)[3], read_frames(path, [3], 32, 48)[0]):
        np.testing.assert_allclose(picture[16, 24], (0, 200, 0), atol=3)
    write_with_cover(tmp_path / "song.mp4", video=False)
    with pytest.raises(VideoError, match=r"song\.mp4: holds no video, only a cover picture"):
        check_clip(tmp_path / "song.mp4")


def test_an_unknown_codec_is_named_as_the_reason(tmp_path):
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 256, 256, 3), np.uint8), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    for read in (check_clip, lambda path: read_frames(path, [0], 16, 16)):
        with pytest.raises(VideoError, match=r"a\.mp4: its video is in a codec that this FFmpeg"):
            read(tmp_path / "a.mp4")
