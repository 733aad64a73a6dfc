import os

import pytest

from m2dit_jax.data.encode.inputs import (
    VIDEOS,
    changed_since,
    changed_videos,
    stamp_videos,
    write_videos,
)


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def touch(path):
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def write_in_the_same_time(path, content):
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before, before))


def test_a_stamp_has_size_and_time_and_on_request_the_content(root):
    status = (root / "a.mp4").stat()
    assert stamp_videos(root, ["a.mp4", "a.mp4", "no.mp4"], False) == {
        "a.mp4": [5, status.st_mtime_ns],
        "no.mp4": None,
    }
    digest = "e6d48eabd560bc608c65a1e97dc9f55c8b88e4c9bc9e2452c5ed11dbf3da35a0"  # of "a.mp4"
    assert stamp_videos(root, ["a.mp4"], True) == {"a.mp4": [5, status.st_mtime_ns, digest]}


@pytest.mark.parametrize("hashed", [False, True])
def test_what_counts_as_changed(root, hashed):
    stamps = stamp_videos(root, ["a.mp4", "b.mp4", "no.mp4"], hashed)
    assert changed_videos(root, stamps, hashed) == []
    touch(root / "a.mp4")
    assert changed_videos(root, stamps, hashed) == ([] if hashed else ["a.mp4"])
    (root / "a.mp4").write_bytes(b"longer than before")
    (root / "no.mp4").write_bytes(b"now")
    assert changed_videos(root, stamps, hashed) == ["a.mp4", "no.mp4"]
    (root / "b.mp4").unlink()
    assert changed_videos(root, stamps, hashed) == ["a.mp4", "b.mp4", "no.mp4"]


def test_another_content_of_the_same_size_and_time_is_seen_by_the_hash_only(root):
    stamps = stamp_videos(root, ["a.mp4"], True)
    write_in_the_same_time(root / "a.mp4", b"other")
    assert changed_videos(root, stamps) == []
    assert changed_videos(root, stamps, hashed=True) == ["a.mp4"]


def test_a_dataset_keeps_its_stamps(root):
    stamps = stamp_videos(root, ["a.mp4"], False)
    assert changed_since(root, root) == []  # of an earlier version: it does not say
    write_videos(root, [stamps, {}, stamps])
    assert changed_since(root, root) == []
    touch(root / "a.mp4")
    assert changed_since(root, root) == ["a.mp4"]


@pytest.mark.parametrize(
    "line", ["", "[]", "{", '{"a.mp4": [1]}', '{"a.mp4": [1, "2"]}', "[" * 9999]
)
def test_a_damaged_file_is_named(root, line):
    (root / VIDEOS).write_text('{"a.mp4": [1, 2]}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"{VIDEOS}:2: is damaged .*; delete this file"):
        changed_since(root, root)
