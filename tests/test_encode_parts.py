"""One dataset from several hosts, of which one is killed: the same bytes as from one."""

import shutil
import signal

import pytest

from m2dit_jax import encode
from m2dit_jax.data.encoded import EMPTY_CAPTION, EncodedDataset
from m2dit_jax.utils.remote.bucket import Bucket
from m2dit_jax.utils.remote.mirror import INDEX
from tests.buckets import BUCKET, s3_server
from tests.test_encode import (
    COLOURS,
    PIXELS,
    contents,
    interrupt,
    of_manifest,
    write_manifest,
    write_video,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty stories, a shard each with --shard_scenes=1."""
    root = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        write_video(root / f"{name}.mp4", colour=colour)
    names = [f"{name}.mp4" for name in COLOURS]
    write_manifest(root / "many.jsonl", {f"s{n}": [names[n % 3]] for n in range(40)})
    return root / "many.jsonl"


@pytest.mark.slow  # five encodings, of which one is a process that is killed
def test_four_hosts_one_of_them_killed_make_the_bytes_of_one(many, tmp_path, capsys):
    flags = [*PIXELS, "--shard_scenes=1", "--workers=1"]
    assert encode.main([*of_manifest(many, tmp_path / "one"), *flags]) == 0
    four = [*of_manifest(many, tmp_path / "four"), *flags]
    for part in ("--part=1/4", "--part=4/4"):
        assert encode.main([*four, part]) == 0
    killed = interrupt([*four, "--part=2/4"], signal.SIGKILL, "progress/0000[159].json", 0)
    assert killed == -signal.SIGKILL
    capsys.readouterr()
    assert encode.main([*four, "--join"]) == 1
    lines = capsys.readouterr().err
    assert "of 40 shards are missing" in lines and "--part=3/4 (not begun): 2, 6, 10" in lines
    assert "--part=2/4 (begun on " in lines and "--part=1/4" not in lines
    # Another host takes the part over.
    for part in ("--part=2/4", "--part=3/4"):
        assert encode.main([*four, part]) == 0
    assert "part 3/4 is there: 10 of 40 shards, 10 scenes" in capsys.readouterr().out
    assert encode.main([*four, "--join"]) == 0
    assert contents(tmp_path / "four") == contents(tmp_path / "one")
    assert encode.main([*four, "--part=1/4"]) == 0
    assert "was finished before" in capsys.readouterr().out


@pytest.mark.slow  # a server is started, and there are five encodings
def test_parts_may_come_from_machines_that_share_only_a_bucket(many, tmp_path, monkeypatch, capsys):
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(f"s3://{BUCKET}/encoded")
        flags = [*PIXELS, "--workers=1", "--shard_scenes=20"]
        assert encode.main([*of_manifest(many, tmp_path / "local"), *flags]) == 0
        shared = [f"--manifest={many}", f"--output={bucket.url}", *flags]

        def on(machine: str, *more: str) -> int:
            monkeypatch.setenv("M2DIT_REMOTE_CACHE", str(tmp_path / machine))
            return encode.main([*shared, *more])

        assert on("two", "--part=2/2") == 0
        assert on("one", "--part=1/2", "--seed=9") == 2
        assert "was begun with other settings" in capsys.readouterr().err
        assert on("three", "--join") == 1
        assert "--part=1/2 (not begun): 0" in capsys.readouterr().err
        assert on("one", "--part=1/2") == 0
        assert on("three", "--join") == 0
        for name, content in contents(tmp_path / "local").items():
            assert bucket.read(name) == content, name
        assert not list((tmp_path / "three").rglob("*array_record*"))
        assert {name for name in bucket.objects() if "/" in name} == {INDEX}


@pytest.mark.slow  # a server is started
def test_videos_of_a_manifest_may_be_in_a_bucket(many, tmp_path, monkeypatch, capsys):
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("M2DIT_REMOTE_CACHE", str(tmp_path / "cache"))
        bucket = Bucket(f"s3://{BUCKET}/videos")
        for name in ("red", "blue"):
            bucket.upload(many.parent / f"{name}.mp4", f"{name}.mp4")
        shutil.copy(many.parent / "green.mp4", tmp_path)
        remote = [f"{bucket.url}/{name}.mp4" for name in ("red", "gone", "blue")]
        write_manifest(tmp_path / "m.jsonl", {"a": [remote[0], "green.mp4"], "b": remote})
        flags = [*of_manifest(tmp_path / "m.jsonl", tmp_path / "set"), *PIXELS, "--workers=1"]
        assert encode.main([*flags, "--shard_scenes=1"]) == 0
        assert "skipped 2 scenes" in capsys.readouterr().out
        dataset = EncodedDataset(tmp_path / "set")
        names = [[origin["video"] for origin in story["origins"]] for story in dataset]
        assert names == [[remote[0], "green.mp4"], [remote[0]]]
        gone = next(item for item in dataset.skipped() if item["video"] == remote[1])
        assert "cannot be read" in gone["kind"]
        assert not list((tmp_path / "cache").rglob("*.mp4"))  # each was here for a while only

        # What changes in the bucket is noticed.
        bucket.upload(many.parent / "blue.mp4", "red.mp4")
        assert encode.main([*flags, "--shard_scenes=1"]) == 0
        assert f"1 videos have changed since, for example {remote[0]}" in capsys.readouterr().out

        write_manifest(tmp_path / "m.jsonl", {"a": ["s3://no-such-bucket/a.mp4"]})
        assert encode.main([*flags[:1], f"--output={tmp_path / 'other'}", *PIXELS]) == 2
        assert "s3://no-such-bucket: " in capsys.readouterr().err
        write_manifest(tmp_path / "m.jsonl", {"a": ["s3://bucket//a.mp4"]})
        assert encode.main([*flags[:1], f"--output={tmp_path / 'other'}", *PIXELS]) == 2
        assert "needs a name between all slashes" in capsys.readouterr().err


@pytest.mark.slow  # a released model is loaded
def test_the_first_part_has_the_empty_caption(golden, many, tmp_path, capsys):
    manifest = tmp_path / "one.jsonl"
    manifest.write_text(many.read_text().splitlines()[0])
    flags = [f"--codec={golden / 'pipe_5b'}", *PIXELS[1:], f"--root={many.parent}", "--workers=1"]
    command = [*of_manifest(manifest, tmp_path / "set"), *flags]
    assert encode.main([*command, "--part=1/2"]) == 0
    path = tmp_path / "set" / EMPTY_CAPTION
    content = path.read_bytes()
    path.unlink()
    assert encode.main([*command, "--join"]) == 1
    assert ": the empty caption" in capsys.readouterr().err
    path.write_bytes(content)
    assert encode.main([*command, "--join"]) == 0
    assert EncodedDataset(tmp_path / "set").empty_caption.any()


def test_each_story_goes_to_the_size_that_cuts_off_least(tmp_path, capsys):
    for name, height, width in (("wide", 48, 72), ("tall", 72, 48), ("wide2", 40, 60)):
        write_video(tmp_path / f"{name}.mp4", height=height, width=width)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    stories = {name: [f"{name}.mp4"] for name in ("wide", "tall", "bad", "wide2")}
    write_manifest(tmp_path / "m.jsonl", stories)
    flags = [*of_manifest(tmp_path / "m.jsonl", tmp_path / "set"), "--codec=pixels", "--frames=5"]
    flags += ["--sizes=16x24,24x16,16x16", "--workers=1"]
    assert encode.main(flags) == 0
    printed = capsys.readouterr().out
    paths = [tmp_path / "set" / size for size in ("16x24", "24x16")]
    assert f"--config.data.paths={paths[0]},{paths[1]} trains on all sizes" in printed
    datasets = [EncodedDataset(path) for path in paths]
    names = [[story["name"] for story in dataset] for dataset in datasets]
    assert names == [["wide", "wide2"], ["tall"]]
    assert [item["video"] for item in datasets[0].skipped()] == ["bad.mp4"]
    assert not (tmp_path / "set" / "16x16").exists()
    assert encode.main([*flags, "--height=16"]) == 2
    assert "--height and --width cannot go with --sizes" in capsys.readouterr().err


def test_flags_that_do_not_go_together(capsys):
    given = ["--clips=x", "--output=y", "--codec=pixels"]
    assert encode.main([*given, "--part=1/2", "--join"]) == 2
    assert "--part cannot go with --join" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        encode.main([*given, "--part=3/2"])
    assert "argument --part: --part=3/2: is part 3 of 2" in capsys.readouterr().err
