import os
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from m2dit_jax.utils import media
from m2dit_jax.utils.media import (
    VideoError,
    check_clip,
    frames_digest,
    read_clip,
    write_gif,
    write_mp4,
)

REAL_CLIPS = Path("/work/shared/data")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def grey(levels: list[int], height: int, width: int) -> np.ndarray:
    """Frames of one grey level each."""
    frames = np.array(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(frames, (len(levels), height, width, 3)).copy()


def test_tiny_video_comes_back_from_mp4(tmp_path):
    frames = noise(6, 16, 16, 3)
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    difference = np.abs(read_clip(tmp_path / "a.mp4", 6, 16, 16).astype(int) - frames)
    assert difference.mean() < 3
    assert difference.max() <= 16  # noise in saturated colours is the hardest for 4:2:0 and H.264


def test_plain_colours_come_back_within_few_levels(tmp_path):
    frames = np.array(list(product([0, 128, 255], repeat=3)), np.uint8)[:, None, None]
    frames = np.broadcast_to(frames, (27, 16, 16, 3)).copy()
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    difference = np.abs(read_clip(tmp_path / "a.mp4", 27, 16, 16).astype(int) - frames)
    assert difference.max() <= 5


def test_tiny_video_comes_back_from_gif(tmp_path):
    frames = noise(3, 8, 8, 3)
    write_gif(tmp_path / "a.gif", frames, fps=8)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.gif", 3, 8, 8), frames)


@pytest.mark.parametrize(
    ("size", "written"),
    [
        ((16, 16), (256, 256)),
        ((16, 24), (256, 384)),
        ((90, 160), (270, 480)),
        ((300, 258), (300, 258)),
        ((301, 300), (602, 600)),
        ((85, 100), (340, 400)),
    ],
)
def test_written_size_and_rate(tmp_path, size, written):
    write_mp4(tmp_path / "a.mp4", np.zeros((2, *size, 3), np.uint8), fps=24000 / 1001)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == written
        assert stream.average_rate == Fraction(24000, 1001)
        assert stream.codec_context.pix_fmt == "yuv420p"


def test_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_mp4(tmp_path / f"{name}.mp4", noise(4, 16, 16, 3), fps=8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_gif_lasts_as_long_as_the_video(tmp_path):
    write_gif(tmp_path / "a.gif", grey([0, 60, 120, 180, 240, 30], 8, 8), fps=24)
    with Image.open(tmp_path / "a.gif") as image:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert durations == [40, 40, 40, 50, 40, 40]  # ms; 6 frames at 24 a second are 250


def test_frames_may_come_one_after_another(tmp_path):
    frames = grey([0, 60, 120], 16, 16)
    write_mp4(tmp_path / "a.mp4", frames, 8)
    write_mp4(tmp_path / "b.mp4", iter(frames), 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_a_failed_write_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ValueError, match="needs at least one frame, found none"):
        write(path, np.zeros((0, 16, 16, 3), np.uint8), 8)
    for fps in (0, -1, float("nan"), float("inf"), 1e-9):
        with pytest.raises(ValueError, match="needs a frame rate above 0.001, found"):
            write(path, np.zeros((1, 16, 16, 3), np.uint8), fps)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_cut_off_half_way_leaves_no_file(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_mp4(tmp_path / "a.mp4", np.zeros((1, 16, 16, 3), np.uint8), 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("wanted", "levels"),
    [(5, [0, 50, 100, 150, 200]), (3, [0, 100, 200]), (2, [0, 200]), (1, [0])],
)
def test_frames_are_spread_from_first_to_last(tmp_path, wanted, levels):
    write_mp4(tmp_path / "a.mp4", grey([0, 50, 100, 150, 200], 16, 16), fps=8)
    clip = read_clip(tmp_path / "a.mp4", wanted, 16, 16)
    np.testing.assert_allclose(clip[:, 0, 0, 0], levels, atol=2)


def test_frames_are_spread_in_time_where_the_rate_is_variable(tmp_path):
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 108, 208, 308, 408]  # hundredths of a second
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for number, time in enumerate(times):
            image = np.full((16, 16, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = read_clip(tmp_path / "a.mkv", 5, 16, 16)
    levels = [20 * number for number in (0, 9, 10, 11, 12)]
    np.testing.assert_allclose(clip[:, 0, 0, 0], levels, atol=3)
    many = read_clip(tmp_path / "a.mkv", 9, 16, 16)  # a frame that stays on comes twice
    found = np.rint(many[:, 0, 0, 0] / 20).astype(int).tolist()
    assert found == [0, 8, 9, 9, 10, 10, 11, 11, 12]


def test_too_few_frames(tmp_path):
    write_mp4(tmp_path / "a.mp4", grey([0, 50, 100], 16, 16), fps=8)
    with pytest.raises(VideoError, match=r"a\.mp4: has 3 frames, needs at least 4"):
        read_clip(tmp_path / "a.mp4", 4, 16, 16)
    with pytest.raises(ValueError, match="needs sizes of 1 or more, found frames=0 height=1"):
        read_clip(tmp_path / "a.mp4", 0, 1, 1)


def test_crop_keeps_the_centre(tmp_path):
    frames = np.zeros((1, 16, 48, 3), np.uint8)
    frames[:, :, 16:32] = 200  # black, grey, black
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    np.testing.assert_allclose(read_clip(tmp_path / "a.mp4", 1, 16, 14), 200, atol=3)
    tall = read_clip(tmp_path / "a.mp4", 1, 5, 15)[0, 2, :, 0]
    np.testing.assert_allclose(tall[[1, 7, 13]], [0, 200, 0], atol=3)


def test_scaling_down_does_not_alias(tmp_path):
    stripes = np.zeros((1, 256, 256, 3), np.uint8)
    stripes[:, ::2] = 200
    write_mp4(tmp_path / "a.mp4", stripes, fps=8)
    for side in (64, 60):  # by a whole number, and not
        clip = read_clip(tmp_path / "a.mp4", 1, side, side)
        np.testing.assert_allclose(clip[:, 1:-1], 100, atol=6)  # the border sees half a stripe


def test_a_clip_filmed_sideways_is_read_upright(tmp_path):
    picture = np.zeros((256, 320, 3), np.uint8)
    picture[:, :160] = 200  # bright at the left
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 256, 320, "yuv420p"
        stream.set_display_rotation(90)  # counterclockwise: the left comes to the bottom
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    clip = read_clip(tmp_path / "a.mp4", 1, 320, 256)
    np.testing.assert_allclose(clip[0, [0, 319], 128, 0], [0, 200], atol=3)


def hostile_files(folder: Path) -> dict[str, bytes]:
    write_mp4(folder / "whole.mp4", noise(12, 16, 16, 3), fps=8)
    whole = (folder / "whole.mp4").read_bytes()
    return {
        "half.mp4": whole[: len(whole) // 2],
        "text.mp4": b"once upon a time\n" * 100,
        "empty.mp4": b"",
        "playlist.mp4": f"#EXTM3U\n#EXTINF:1,\n{folder}/whole.mp4\n#EXT-X-ENDLIST\n".encode(),
        "script.mp4": b"ffconcat version 1.0\nfile whole.mp4\n",
    }


def test_hostile_files(tmp_path):
    for name, data in hostile_files(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        for read in (check_clip, lambda path: read_clip(path, 1, 16, 16)):
            with pytest.raises(VideoError, match=rf"{name}: not a readable video \("):
                read(tmp_path / name)
    with pytest.raises(VideoError, match="no such file"):
        check_clip(tmp_path)


def test_file_without_frames(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 256, 256, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=r"a\.mkv: "):
        check_clip(tmp_path / "a.mkv")
    with pytest.raises(VideoError, match=r"a\.mkv: "):
        read_clip(tmp_path / "a.mkv", 1, 16, 16)


def test_damage_in_the_middle_is_seen(tmp_path):
    write_mp4(tmp_path / "a.mp4", noise(12, 16, 16, 3), fps=8)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "a.mp4").write_bytes(data)
    check_clip(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=r"a\.mp4: "):
        read_clip(tmp_path / "a.mp4", 12, 16, 16)


@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="needs ../shared/data")
def test_real_clip():
    clip = read_clip(REAL_CLIPS / "scene_1.mp4", 5, 62, 128)
    assert clip.shape == (5, 62, 128, 3)
    assert clip.std() > 10


def test_ten_passes_do_not_drift(tmp_path):
    """Each time what was written is given again; 264x400 is neither enlarged nor scaled."""
    rows, columns = np.mgrid[:264, :400]
    first = np.stack([rows, columns * 0.6, 255 - rows], -1)
    first = (first + 20 * np.sin(columns / 7)[..., None]).clip(0, 255).astype(np.uint8)[None]
    clip = first
    for _ in range(10):
        write_mp4(tmp_path / "a.mp4", clip, 8)
        clip = read_clip(tmp_path / "a.mp4", 1, 264, 400)
        assert np.abs((clip.astype(float) - first).mean((0, 1, 2))).max() < 0.5
    assert np.abs(clip.astype(float) - first).mean() < 2


def test_the_file_says_its_colours_and_begins_with_its_header(tmp_path):
    write_mp4(tmp_path / "a.mp4", noise(2, 16, 16, 3), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"colrnclx\x00\x01\x00\x01\x00\x01\x00" in data  # BT.709 thrice, limited range
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    tags = frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range
    assert tags == (1, 1, 1, 1)


@pytest.mark.parametrize("size", [(16, 16), (300, 258)])
def test_lossless_videos_come_back_bit_for_bit(tmp_path, size):
    frames = noise(3, *size, 3)
    for name in ("a", "b"):
        write_mp4(tmp_path / f"{name}.mp4", frames, 8, "lossless")
    np.testing.assert_array_equal(read_clip(tmp_path / "a.mp4", 3, *size), frames)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_digest_tells_shape_and_pixels_apart():
    videos = np.arange(2 * 3 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 3, 4, 5, 3)
    digest = frames_digest(videos)
    assert digest == "1c7f463a479fdc45e5046769700ecfc2ab0ff24d36f9cbbb6856214ee6675934"
    assert frames_digest(videos.swapaxes(2, 3).copy().swapaxes(2, 3)) == digest
    assert frames_digest(videos.reshape(2, 3, 5, 4, 3)) != digest
    assert frames_digest(videos + np.uint8(1)) != digest


def test_given_clips_have_limits_of_pixels_and_time(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    media.write_mp4(path, np.zeros((4, 256, 256, 3), np.uint8), 8)
    monkeypatch.setattr(media, "TIME_LIMIT", 0.0)
    for read in (media.check_clip, lambda path: media.read_clip(path, 2, 16, 16)):
        with pytest.raises(media.VideoError, match="took longer than 0 s to decode, needs a short"):
            read(path)
    monkeypatch.setattr(media, "TIME_LIMIT", 60.0)
    assert media.read_clip(path, 2, 16, 16).shape == (2, 16, 16, 3)
    monkeypatch.setattr(media, "MAX_PIXELS", 256 * 256 - 1)
    for read in (media.check_clip, lambda path: media.read_clip(path, 2, 16, 16)):
        with pytest.raises(media.VideoError, match="a frame has 65536 pixels, may have 65535 at"):
            read(path)
