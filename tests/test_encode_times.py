"""Frames in time, and videos that change, where users meet them: in the encode command."""

import json
import os
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import pytest

from m2dit_jax import encode
from m2dit_jax.data.encode import encoding, shard_work
from m2dit_jax.data.encoded import EncodedDataset
from tests.data.test_shots import write_shots

pytestmark = pytest.mark.e2e

PIXELS = ["--codec=pixels", "--frames=4", "--height=16", "--width=16", "--workers=1"]


def write(path, times, colour=0):
    """A video with frames at these times, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            picture = np.full((32, 32, 3), (colour + number) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_manifest(path, scenes):
    """A story of each scene."""
    lines = [{"name": f"s{i}", "scenes": [{"caption": "c", **s}]} for i, s in enumerate(scenes)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def encoded(folder, *flags, output="set"):
    """The dataset of the folder's manifest `m.jsonl`."""
    path = folder / output
    assert encode.main([f"--manifest={folder}/m.jsonl", f"--output={path}", *PIXELS, *flags]) == 0
    return EncodedDataset(path)


def origins(dataset) -> list[Any]:
    return [origin for story in dataset for origin in story["origins"]]


def test_shots_of_24_fps_are_encoded_from_their_own_frames_only(tmp_path):
    pytest.importorskip("scenedetect", reason="optional extra: shots")
    write_shots(tmp_path / "v.mp4", [25, 61, 100], 140, 24)
    shots = tmp_path / "shots.jsonl"
    command = [f"--scenes-from={tmp_path}/v.mp4", f"--output={shots}", f"--root={tmp_path}"]
    assert encode.main(command) == 0
    text = shots.read_text(encoding="utf-8").replace('"caption": ""', '"caption": "a shot"')
    (tmp_path / "m.jsonl").write_text(text, encoding="utf-8")
    found = origins(encoded(tmp_path, "--stride=1000"))
    wanted = [(0, 25), (25, 61), (61, 100), (100, 140)]
    assert [(o["first_frame"], o["end_frame"]) for o in found] == wanted
    for origin, (first, after) in zip(found, wanted, strict=True):
        assert first <= min(origin["frames"]) < max(origin["frames"]) < after


def test_frames_of_all_videos_can_be_counted_at_one_rate(tmp_path, capsys):
    for rate in (12, 24, 60):
        write_shots(tmp_path / f"{rate}.mp4", [], 2 * rate, rate)
    write_manifest(tmp_path / "m.jsonl", [{"video": f"{rate}.mp4"} for rate in (12, 24, 60)])
    own = encoded(tmp_path, "--stride=2")
    assert "the videos have 12 to 60 frames a second" in capsys.readouterr().out
    assert [set(np.diff(origin["frames"])) for origin in origins(own)] == [{2}, {2}, {2}]
    assert "fps" not in own.settings and "fps" not in origins(own)[0]

    one = encoded(tmp_path, "--stride=2", "--fps=12", output="one")
    assert "frames a second" not in capsys.readouterr().out
    assert one.settings["fps"] == "12" and origins(one)[0]["fps"] == 12
    assert [set(np.diff(origin["frames"])) for origin in origins(one)] == [{2}, {4}, {10}]
    assert (
        encode.main(
            [f"--manifest={tmp_path}/m.jsonl", f"--output={tmp_path}/one", *PIXELS, "--fps=24"]
        )
        == 2
    )
    assert "fps: '12' there, '24' now" in capsys.readouterr().err


def test_the_rate_may_come_from_the_config(tmp_path):
    write_shots(tmp_path / "v.mp4", [], 48, 24)
    write_manifest(tmp_path / "m.jsonl", [{"video": "v.mp4"}])
    config = tmp_path / "twelve.py"
    config.write_text(
        "from configs.base import get_config as base\n\n\n"
        "def get_config():\n    config = base()\n    config.data.fps = 12.0\n    return config\n"
    )
    found = encoded(tmp_path, f"--config={config}", "--stride=1")
    assert found.settings["fps"] == "12"
    assert set(np.diff(origins(found)[0]["frames"])) == {2}


def test_strides_are_in_time_where_the_rate_is_variable(tmp_path):
    times = [*range(0, 2000, 100), *range(2000, 4000, 40)]  # 10, then 25 a second
    write(tmp_path / "v.mkv", times)
    write_manifest(tmp_path / "m.jsonl", [{"video": "v.mkv"}])
    for seed in (0, 1, 2):
        found = origins(encoded(tmp_path, "--stride=10", f"--seed={seed}", output=f"set{seed}"))
        taken = [times[number] for number in found[0]["frames"]]
        assert found[0]["fps"] == pytest.approx(25)
        assert np.abs(np.diff(taken) - 400).max() <= 100, taken


def test_frames_and_seconds_that_contradict_are_named_and_left_out(tmp_path, capsys):
    write_shots(tmp_path / "v.mp4", [], 48, 24)
    scenes = [
        {"start": 1.042, "first_frame": 25},
        {"start": 1.0, "first_frame": 25},
        {"first_frame": 40, "end_frame": 49},
        {"first_frame": 48},
    ]
    write_manifest(tmp_path / "m.jsonl", [{"video": "v.mp4", **scene} for scene in scenes])
    dataset = encoded(tmp_path)
    assert min(origins(dataset)[0]["frames"]) >= 25 and len(dataset) == 1
    reasons = [item["reason"] for item in dataset.skipped()]
    assert reasons == [
        "first_frame is 25, but start 1 s is frame 24; needs one of them, or the same in both",
        "has 48 frames, end_frame is 49",
        "has 48 frames, first_frame is 48",
    ]


# --- videos that change


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """An output of which one shard of two is finished."""
    for name in "ab":
        write(tmp_path / f"{name}.mp4", range(0, 800, 40))
    write_manifest(tmp_path / "m.jsonl", [{"video": "a.mp4"}, {"video": "b.mp4"}])
    write_shard = shard_work.write_shard

    def first_only(path, *arguments):
        if "00001-of" in path.name:
            raise KeyboardInterrupt
        return write_shard(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(shard_work, "write_shard", first_only)
        flags = [f"--manifest={tmp_path}/m.jsonl", f"--output={tmp_path}/set", *PIXELS]
        assert encode.main([*flags, "--shard_scenes=1"]) == 130
    assert [path.name for path in (tmp_path / "set/progress").glob("0*")] == ["00000.json"]
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_whose_video_has_changed_is_encoded_anew(begun, capsys):
    write(begun / "a.mp4", range(0, 800, 40), colour=100)
    dataset = encoded(begun, "--shard_scenes=1")
    assert "shard 1 of 2 is encoded anew: a.mp4 has changed" in capsys.readouterr().err
    assert cast(Any, dataset[0])["pixels"].mean() > 90
    encoded(begun, "--shard_scenes=1", output="fresh")
    assert contents(begun / "set") == contents(begun / "fresh")


def test_videos_that_have_not_changed_are_not_encoded_again(begun, capsys):
    before = (begun / "set/stories-train.array_record-00000-of-00002").stat().st_ino
    encoded(begun, "--shard_scenes=1")
    assert "anew" not in capsys.readouterr().err
    assert (begun / "set/stories-train.array_record-00000-of-00002").stat().st_ino == before


def test_a_video_that_changes_meanwhile_stops_the_end_of_the_dataset(begun, capsys, monkeypatch):
    encode_shards = encoding.encode_shards

    def then_change(*arguments):
        encode_shards(*arguments)
        os.utime(begun / "b.mp4", ns=(1, 1))

    flags = [f"--manifest={begun}/m.jsonl", f"--output={begun}/set", *PIXELS, "--shard_scenes=1"]
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "encode_shards", then_change)
        assert encode.main(flags) == 2
    message = (
        f"{begun}/b.mp4: changed while it was encoded; the same command encodes its shards anew"
    )
    assert message in capsys.readouterr().err
    assert encode.main(flags) == 0


def test_a_finished_dataset_says_which_videos_have_changed(begun, capsys):
    encoded(begun, "--shard_scenes=1", "--hash")
    os.utime(begun / "a.mp4", ns=(1, 1))  # the content of b alone was hashed
    os.utime(begun / "b.mp4", ns=(1, 1))
    capsys.readouterr()
    encoded(begun, "--shard_scenes=1")
    printed = capsys.readouterr().out
    assert "(was finished before)" in printed
    assert "1 videos have changed since, for example a.mp4" in printed
    (begun / "set/videos.jsonl").write_text("[1]\n")
    encoded(begun, "--shard_scenes=1")
    assert "videos.jsonl:1: is damaged" in capsys.readouterr().err
