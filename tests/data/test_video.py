import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.data import video as video_module
from m2dit_jax.data.encode.scene_decoding import SceneTask, decode_scene
from m2dit_jax.data.video import (
    Video,
    frames_between,
    longest_stride_frames,
    middle_frames,
    probe_video,
    read_frames,
)
from m2dit_jax.utils.picture import Screen
from m2dit_jax.utils.video_file import VideoError

FRAMES = 60
BITS = 6  # of a frame's number, painted as black and white bars
CLIPS = Path(__file__).parent.parent.parent / "../shared/data"


def picture(number, height=48, width=96):
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8), width // BITS)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(frame):
    bars = frame.mean((0, 2)).reshape(BITS, -1).mean(1) > 127
    return int(sum(bar << bit for bit, bar in enumerate(bars)))


def write(path, numbers=range(FRAMES), codec="libx264", times=None, turn=0, options=None, **kwargs):
    options = {"bf": "3", "g": "12", "crf": "10"} if options is None else options
    with av.open(str(path), "w", **kwargs) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = 48, 96
        stream.pix_fmt = "gray" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        if turn:
            stream.set_display_rotation(turn)
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = times[place] if times else 10 * place
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """H.264 with B-frames and a key frame every 12 frames."""
    return write(tmp_path_factory.mktemp("video") / "video.mp4")


@pytest.mark.parametrize(
    "numbers", [[0], [59], [11, 12, 13], [0, 3, 6, 57], [30, 31, 59], list(range(60)), [5, 5, 5]]
)
def test_frames_are_exactly_those_asked_for(video, numbers):
    frames = read_frames(video, numbers, 48, 96)
    assert [read_number(frame) for frame in frames] == numbers


@pytest.mark.parametrize(
    "kind", ["open gop", "variable rate", "late start", "matroska", "avi", "avi B-frames", "ts"]
)
def test_frames_are_exact_in_other_files_too(tmp_path, kind):
    path = tmp_path / {"matroska": "v.mkv", "avi": "v.avi", "ts": "v.ts"}.get(kind, "v.mp4")
    if kind == "open gop":
        write(path, options={"bf": "3", "g": "12", "x264-params": "open-gop=1", "crf": "10"})
    elif kind == "variable rate":
        steps = np.random.default_rng(0).integers(1, 40, FRAMES)
        write(path, times=np.cumsum(steps).tolist())
    elif kind == "late start":
        write(path, times=[500 + 10 * i for i in range(FRAMES)])
    elif kind == "avi B-frames":  # their times are wrong in the file
        path = write(tmp_path / "v.avi")
    elif kind == "avi":
        write(path, codec="mpeg4", options={"g": "12"})
    else:
        write(path)
    assert probe_video(path).frames == FRAMES
    numbers = [0, 1, 13, 14, 40, 59]
    assert [read_number(f) for f in read_frames(path, numbers, 48, 96)] == numbers


INDEXED = {
    "plain": {},
    "header first": {"container_options": {"movflags": "faststart"}},
    "fragments": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "open gop": {"options": {"bf": "3", "g": "12", "x264-params": "open-gop=1", "crf": "10"}},
    "late start": {"times": [500 + 10 * i for i in range(FRAMES)]},
    "mpeg4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
}


@pytest.mark.parametrize("kind", INDEXED)
def test_the_header_tells_what_all_packets_tell(tmp_path, kind, monkeypatch):
    path = write(tmp_path / "v.mp4", **INDEXED[kind])
    by_header, by_packets = Video(path), Video(path)
    monkeypatch.setattr(by_packets, "_indexed", lambda: None)
    monkeypatch.setattr(by_header, "_demuxed", lambda: pytest.fail("the whole file was read"))
    assert by_header.info() == by_packets.info()
    numbers = [0, 1, 13, 14, 40, 59]
    assert [read_number(f) for f in by_header.read(numbers, 48, 96)] == numbers
    assert set(by_header._keys) <= set(by_packets._keys)


def test_what_the_header_cannot_tell_is_read_from_the_packets(video, tmp_path, monkeypatch):
    def no_boxes(path):
        raise ValueError("no mdat")

    monkeypatch.setattr(video_module, "HeadersOnly", no_boxes)
    assert [read_number(f) for f in read_frames(video, [3, 40], 48, 96)] == [3, 40]


_COUNT_BYTES = """
import sys
from pathlib import Path
from m2dit_jax.data.encode.scene_decoding import SceneTask, decode_scene

def read():
    return int(Path("/proc/self/io").read_text().split()[1])

path = Path(sys.argv[1])
times = [(40.0, 42.0), (50.0, 52.0), (8.0, 10.0), (70.0, 72.0)]
for start, end in times:
    before = read()
    decode_scene(SceneTask(path, start, end, 17, 48, 96, "longest", 1, 0.2))
    print(read() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux")
@pytest.mark.slow
def test_scenes_are_read_without_the_rest_of_the_file(tmp_path):
    """Each scene, but for the header, reads at most 1.2 of what lies before its last frame."""
    path = tmp_path / "long.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"bf": "3", "g": "25", "crf": "10", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for number in range(800):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 5 * number, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
    command = [sys.executable, "-c", _COUNT_BYTES, str(path)]
    counted = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    header = path.stat().st_size - sum(packet.size for packet in packets)
    reads, needed = [int(count) for count in counted], []
    for first in (400, 500, 80, 700):  # frames of ten a second; 17 of 20, from the first on
        key = first // 25 * 25
        needed.append(sum(p.size for p in packets[key : first + 17]))
    assert reads[0] < 1.2 * (needed[0] + header) + 2 * header + 300_000
    for scene in (1, 2, 3):
        assert reads[scene] <= 1.2 * needed[scene], (reads, needed)


def test_a_video_that_changes_is_opened_again(tmp_path):
    path = write(tmp_path / "v.mp4")
    task = SceneTask(path, None, None, 3, 48, 96, "longest", 1, 0.0)
    assert [read_number(frame) for frame in decode_scene(task).pixels] == [0, 1, 2]
    write(path, [9, 8, 7, 6])
    decoded = decode_scene(task)
    assert [read_number(frame) for frame in decoded.pixels] == [9, 8, 7]
    assert decoded.source["frames"] == 4


def test_a_video_that_failed_can_be_read_again(video):
    one = Video(video)
    with pytest.raises(VideoError, match="has 60 frames, needs 61"):
        one.read([60], 48, 96)
    assert [read_number(frame) for frame in one.read([5], 48, 96)] == [5]


def test_what_a_video_is_like(video, tmp_path):
    info = probe_video(video)
    assert (info.frames, info.height, info.width) == (FRAMES, 48, 96)
    assert info.fps == pytest.approx(10) and info.seconds == pytest.approx(6)
    turned = probe_video(write(tmp_path / "turned.mp4", [1], turn=90))
    assert (turned.height, turned.width) == (96, 48)


def test_turned_videos_are_upright(tmp_path):
    path = write(tmp_path / "turned.mp4", [1], turn=90)  # the left comes to the bottom
    (frame,) = read_frames(path, [0], 96, 48)
    assert frame[-8:].mean() > 200 and frame[:80].mean() < 30


def test_the_short_side_is_resized_and_the_middle_kept(video):
    (frame,) = read_frames(video, [0b001100], 24, 24)  # white in the middle third
    assert frame.shape == (24, 24, 3)
    assert frame[:, 5:19].mean() > 200 and frame[:, :3].mean() < 60 and frame[:, -3:].mean() < 60
    (large,) = read_frames(video, [0b111011], 96, 250)
    assert large.shape == (96, 250, 3) and read_number(large[:, :246]) == 0b111011


def test_small_pictures_are_averaged(tmp_path):
    path = tmp_path / "stripes.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv444p"
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stripes, format="rgb24")))
        container.mux(stream.encode(None))
    (frame,) = read_frames(path, [0], 16, 16)
    assert np.abs(frame[:, 2:-2].astype(int) - 127).max() < 6


def test_gray_and_alpha_are_colours(tmp_path):
    path = write(tmp_path / "gray.mkv", [3], codec="ffv1", options={})
    assert read_number(read_frames(path, [0], 48, 96)[0]) == 3
    path = tmp_path / "alpha.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=8)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "rgba"
        half = np.full((16, 16, 4), 128, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(half, format="rgba")))
        container.mux(stream.encode(None))
    assert read_frames(path, [0], 16, 16).shape == (1, 16, 16, 3)


def test_frames_between_times_need_not_be_evenly_spaced(video, tmp_path):
    assert frames_between(video, None, None) == range(60)
    assert frames_between(video, 1.0, 2.5) == range(10, 25)
    assert frames_between(video, 5.95, 100.0) == range(60, 60)
    path = write(tmp_path / "v.mp4", range(4), times=[100, 110, 500, 510])  # hundredths
    assert frames_between(path, 0.05, 4.05) == range(1, 3)


def test_too_few_frames(video):
    with pytest.raises(VideoError, match="has 60 frames, needs 61"):
        read_frames(video, [60], 48, 96)


def broken(folder, video):
    whole = video.read_bytes()
    files = {
        "empty.mp4": b"",
        "text.mp4": b"once upon a time\n" * 100,
        "half.mp4": whole[: len(whole) // 2],
        "zeros.mp4": bytes(10_000),
        "playlist.mp4": f"#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n".encode(),
        "script.mp4": f"ffconcat version 1.0\nfile {video.name}\n".encode(),
        "huge.mp4": b"GIF89a" + b"\xff\xff\xff\xff\x00\x00\x00" + bytes(20),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files] + [folder, folder / "missing.mp4"]


def test_broken_files_have_a_reason(video, tmp_path):
    for path in broken(tmp_path, video):
        with pytest.raises(VideoError, match=str(path)):
            probe_video(path)
            read_frames(path, [0], 48, 96)


def test_damage_in_the_middle_is_an_error_or_frames_but_never_a_crash(video, tmp_path):
    data = bytearray(video.read_bytes())
    for start in range(2000, len(data) - 2000, 700):
        data[start : start + 60] = bytes(60)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    try:
        assert read_frames(path, [0, 20, 40], 48, 96).shape == (3, 48, 96, 3)
    except VideoError as error:
        assert str(path) in str(error)


def test_time_runs_out(video):
    with pytest.raises(VideoError, match="took longer than 1e-06 s"):
        read_frames(video, [59], 48, 96, time_limit=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 49), st.integers(1, 4), st.floats(0, 1, exclude_max=True)
)
def test_sampled_frames_are_in_the_clip(frames, wanted, stride, draw):
    for rule in (middle_frames, longest_stride_frames):
        if frames < wanted:
            with pytest.raises(ValueError, match=f"a clip of {frames} frames, needs {wanted}"):
                rule(frames, wanted, stride, draw)
            continue
        numbers = rule(frames, wanted, stride, draw)
        assert len(numbers) == len(set(numbers)) == wanted
        assert numbers == sorted(numbers) and numbers[0] >= 0 and numbers[-1] < frames


def test_the_rules_of_the_reference():
    # Every third frame within 5 to 95 of 100, from the first to the last place that fits.
    assert middle_frames(100, 4, 3, 0.0) == [5, 8, 11, 14]
    assert middle_frames(100, 4, 3, 0.999) == [85, 88, 91, 94]
    # A clip too short for the stride is spread over its middle.
    assert middle_frames(20, 9, 3, 0.5) == [1, 3, 5, 7, 9, 11, 13, 15, 18]
    # The largest stride that fits, at most 3.
    assert longest_stride_frames(100, 4, 3, 0.0) == [0, 3, 6, 9]
    assert longest_stride_frames(8, 4, 3, 0.0) == [0, 2, 4, 6]
    assert longest_stride_frames(8, 4, 3, 0.999) == [1, 3, 5, 7]
    assert longest_stride_frames(5, 5, 3, 0.9) == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", ["example_shot2", "scene_1"])
def test_real_clips_equal_decoding_everything(name):
    path = CLIPS / f"{name}.mp4"
    screen = Screen(path)
    with av.open(str(path)) as container:
        frames = [screen.show(frame) for frame in container.decode(video=0)]
    info = probe_video(path)
    assert info.frames == len(frames)
    numbers = [2, 50, info.frames - 1]
    found = read_frames(path, numbers, info.height, info.width)
    for number, frame in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(frame, frames[number])
