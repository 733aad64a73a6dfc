from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from m2dit_jax.data.video import probe_video
from m2dit_jax.utils.file_ends import bytes_missing
from m2dit_jax.utils.media import check_clip, read_clip
from m2dit_jax.utils.video_file import VideoError, open_clip

KINDS = {  # name: codec, format, options of the container, seconds of sound beyond the video
    "last.mp4": ("libx264", "mp4", {}, 0),
    "first.mp4": ("libx264", "mp4", {"movflags": "faststart"}, 0),
    "sound.mp4": ("libx264", "mp4", {"movflags": "faststart"}, 1),
    "fragments.mp4": ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov"}, 0),
    "clip.mkv": ("libx264", "matroska", {}, 0),
    "sound.mkv": ("libx264", "matroska", {}, 1),
    "clip.webm": ("libvpx-vp9", "webm", {}, 0),
    "clip.avi": ("mpeg4", "avi", {}, 0),
    "clip.ts": ("libx264", "mpegts", {}, 0),
    "clip.mpg": ("mpeg2video", "mpeg", {}, 0),
    "clip.flv": ("libx264", "flv", {}, 0),
    "clip.wmv": ("wmv2", "asf", {}, 0),
    "clip.gif": ("gif", "gif", {}, 0),
}


def write(path: Path, gap: int = 0, live: bool = False) -> bytes:
    """24 frames of noise, 24 a second; after the first, `gap` frames are left out."""
    codec, name, options, sound = KINDS.get(path.name, KINDS["clip.mkv"])
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    options = options | ({"live": "1"} if live else {})
    with av.open(str(path), "w", format=name, container_options=options) as container:
        stream: Any = container.add_stream(codec, rate=24)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        audio: Any = container.add_stream("aac", rate=44100) if sound else None
        for number in range(24):
            image = np.roll(noise, 3 * number, 1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number + (gap if number else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for number in range(43 * (1 + sound) if audio else 0):
            silence = np.zeros((2, 1024), np.float32)
            samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            samples.sample_rate, samples.pts = 44100, 1024 * number
            container.mux(audio.encode(samples))
    return path.read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_lack_nothing_and_cut_ones_are_refused(tmp_path, name):
    whole = write(tmp_path / name)
    assert bytes_missing(tmp_path / name) == ""
    open_clip(tmp_path / name)[0].close()
    for share in (0.5, 0.71, 0.93):
        if name.endswith("mpg") and share > 0.9:  # within the last packet nothing tells
            continue
        # Odd, as no packet of a transport stream is: nothing tells of a cut between two of them.
        (tmp_path / name).write_bytes(whole[: int(share * len(whole)) | 1])
        for read in (check_clip, probe_video):
            with pytest.raises(VideoError, match=f"{name}: not a readable video"):
                read(tmp_path / name)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm", "first.mp4"])
def test_the_message_says_how_much_there_is(tmp_path, name):
    whole = write(tmp_path / name)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    lost = len(whole) - len(whole) // 2
    with pytest.raises(
        VideoError,
        match=rf"cut off: 0\.\d\d s can be read of 1\.0\d s, has \d+ bytes and lacks {lost} bytes",
    ):
        read_clip(tmp_path / name, 5, 64, 96)


def test_a_download_that_was_never_filled_is_refused(tmp_path):
    whole = write(tmp_path / "clip.mkv")
    zeros = bytes(len(whole) - len(whole) // 3)
    (tmp_path / "clip.mkv").write_bytes(whole[: len(whole) // 3] + zeros)
    with pytest.raises(VideoError, match="cut off: .* has zeros at its end"):
        check_clip(tmp_path / "clip.mkv")


def test_files_of_no_promised_length_and_of_odd_times_are_whole(tmp_path):
    write(tmp_path / "live.mkv", live=True)
    write(tmp_path / "pause.mkv", gap=200)
    for name in ("live.mkv", "pause.mkv"):
        assert bytes_missing(tmp_path / name) == ""
        assert read_clip(tmp_path / name, 24, 64, 96).shape == (24, 64, 96, 3)
    (tmp_path / "text.mkv").write_bytes(b"once upon a time")
    assert bytes_missing(tmp_path / "text.mkv") == ""
