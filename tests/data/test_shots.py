import json
import sys
from fractions import Fraction
from itertools import accumulate
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from m2dit_jax.data.encode.scene_decoding import SceneTask, decode_scene
from m2dit_jax.data.manifest import ManifestError, read_manifest, write_jsonl
from m2dit_jax.data.scene_times import SceneTimes
from m2dit_jax.data.shots import cut_into_shots
from m2dit_jax.data.video import Video, VideoError
from m2dit_jax.utils.media import write_mp4

COLOURS = [(200, 30, 30), (240, 240, 240), (30, 30, 90), (220, 220, 40)]
RATES = [Fraction(24), Fraction(60), Fraction(24000, 1001), Fraction(30000, 1001)]
RATES += [Fraction(25), Fraction(25, 2), Fraction(50)]


def write_shots(path, cuts, frames, rate=None, times=None, codec="libx264"):
    """A video whose colour changes at the cuts; `times` are its frames', in milliseconds."""
    unit = Fraction(1, 1000) if times else 1 / Fraction(rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate or 25, options={"bf": "2", "g": "250"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        if times:
            stream.codec_context.time_base = unit
        for number in range(frames):
            shot = sum(number >= cut for cut in cuts)
            picture = np.full((32, 32, 3), COLOURS[shot % len(COLOURS)], np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shots_of(path, root):
    """First frame and the one after the last of each shot, after writing and reading them."""
    manifest = root / "shots.jsonl"
    write_jsonl(cut_into_shots(path, root), manifest, root)
    text = manifest.read_text(encoding="utf-8").replace('"caption": ""', '"caption": "a shot"')
    manifest.write_text(text, encoding="utf-8")
    return read_manifest(manifest, root).stories[0].scenes


def taken(scene, frames=2):
    """Numbers of all frames that encoding takes from a scene, whatever is drawn."""
    found = set()
    for sampling in ("middle", "longest"):
        for draw in (0.0, 0.5, 0.999):
            task = SceneTask(
                scene.video,
                scene.start,
                scene.end,
                frames,
                8,
                8,
                sampling,
                1000,
                draw,
                scene.first_frame,
                scene.end_frame,
            )
            found |= set(decode_scene(task).numbers)
    return found


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "long.mp4"
    write_mp4(path, np.zeros((20, 16, 16, 3), np.uint8), 10)
    return path


needs_detector = pytest.mark.usefixtures("real_detector")


@pytest.fixture(scope="module")
def real_detector():
    return pytest.importorskip("scenedetect", reason="optional extra: shots")


@needs_detector
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
def test_shots_of_24_fps_end_before_the_next_ones_first_frame(ending, tmp_path):
    path = write_shots(tmp_path / f"v.{ending}", [25, 61, 100], 140, 24)
    shots = shots_of(path, tmp_path)
    wanted = [(0, 25), (25, 61), (61, 100), (100, 140)]
    assert [(shot.first_frame, shot.end_frame) for shot in shots] == wanted
    assert [shot.start for shot in shots] == pytest.approx(
        [0, 25 / 24, 61 / 24, 100 / 24], abs=6e-4
    )
    for shot, (first, after) in zip(shots, wanted, strict=True):
        assert taken(shot) <= set(range(first, after))


@needs_detector
def test_exact_times_are_written_beside_seconds(tmp_path):
    path = write_shots(tmp_path / "v.mp4", [25], 50, 24)
    shots_of(path, tmp_path)
    story = json.loads((tmp_path / "shots.jsonl").read_text(encoding="utf-8"))
    assert story["scenes"] == [
        {
            "video": "v.mp4",
            "caption": "a shot",
            "start": 0.0,
            "end": 1.041667,
            "exact_start": "0",
            "exact_end": "25/24",
            "first_frame": 0,
            "end_frame": 25,
        },
        {
            "video": "v.mp4",
            "caption": "a shot",
            "start": 1.041667,
            "end": 2.083333,
            "exact_start": "25/24",
            "exact_end": "25/12",
            "first_frame": 25,
            "end_frame": 50,
        },
    ]


@needs_detector
@given(
    rate=st.sampled_from([*RATES, None]),
    lengths=st.lists(st.integers(16, 40), min_size=2, max_size=4),
    steps=st.lists(st.integers(5, 90), min_size=160, max_size=160),
)
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_shots_are_exact_at_every_rate(tmp_path_factory, rate, lengths, steps):
    """None: a variable rate. The seconds alone name the same frames, rounded in any direction."""
    root = tmp_path_factory.mktemp("shots")
    *cuts, frames = accumulate(lengths)
    times = None if rate else list(accumulate(steps[:frames]))
    path = write_shots(root / "v.mp4", cuts, frames, rate, times)
    shots = shots_of(path, root)
    bounds = list(zip([0, *cuts], [*cuts, frames], strict=True))
    assert [(shot.first_frame, shot.end_frame) for shot in shots] == bounds
    for shot, (first, after) in zip(shots, bounds, strict=True):
        assert taken(shot) <= set(range(first, after))
        for digits in (round, np.floor, np.ceil):
            start, end = (
                float(digits(1000 * time)) / 1000 for time in (shot.start or 0.0, shot.end or 0.0)
            )
            assert Video(path).part(SceneTimes(start, end)) == range(first, after)


def test_shots_wait_for_captions(video, detector, tmp_path):
    detector += [8]
    manifest = cut_into_shots(video, tmp_path)
    (story,) = manifest.stories
    assert [(s.start, s.end, s.caption) for s in story.scenes] == [(0.0, 0.8, ""), (0.8, 2.0, "")]
    write_jsonl(manifest, tmp_path / "shots.jsonl", tmp_path)
    with pytest.raises(ManifestError, match="scene 1: caption: found ''.*\n.*scene 2: caption"):
        read_manifest(tmp_path / "shots.jsonl", tmp_path)


@pytest.fixture
def detector(monkeypatch):
    """Stands in for PySceneDetect, an optional extra; holds the frames before which it cuts."""
    cuts: list[int] = []

    class Detector:
        def process_frame(self, moment, picture):
            return [moment] if moment.frame_num in cuts else []

        def post_process(self, moment):
            return []

    fake = SimpleNamespace(
        ContentDetector=Detector, FrameTimecode=lambda n, rate: SimpleNamespace(frame_num=n)
    )
    monkeypatch.setitem(sys.modules, "scenedetect", fake)
    return cuts


def test_a_video_without_a_cut_is_one_shot(video, detector, tmp_path):
    (scene,) = cut_into_shots(video, tmp_path).stories[0].scenes
    assert (scene.start, scene.end, scene.first_frame, scene.end_frame) == (0.0, 2.0, 0, 20)


def test_what_cannot_be_cut(video, detector, tmp_path, monkeypatch):
    with pytest.raises(VideoError, match="is not within the root"):
        cut_into_shots(video, tmp_path / "elsewhere")
    with pytest.raises(VideoError, match="no such file"):
        cut_into_shots(tmp_path / "no.mp4", tmp_path)
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ImportError, match=r"pip install .*\[shots\]"):
        cut_into_shots(video, tmp_path)
