import pytest

from m2dit_jax.data.clip_folder import read_clip_folder
from m2dit_jax.data.manifest import ManifestError, read_manifest, write_jsonl


def put(folder, *names, caption="a fox"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
        (folder / name).with_suffix(".txt").write_text(f" {caption}\n {name} ", "utf-8")


def test_each_folder_is_a_story_in_the_order_of_its_names(tmp_path):
    clips = tmp_path / "clips"
    put(clips, "clip_10.mp4", "clip_2.MP4")
    put(clips / "hare" / "day 1", "b.mov", "a.webm")
    (clips / "empty").mkdir()
    (clips / "._clip_2.mp4").write_bytes(b"what a Mac leaves")
    manifest = read_clip_folder(clips)
    told = [(s.name, [(c.video.name, c.caption) for c in s.scenes]) for s in manifest.stories]
    assert told == [
        ("clips", [("clip_2.MP4", "a fox clip_2.MP4"), ("clip_10.mp4", "a fox clip_10.mp4")]),
        ("hare/day 1", [("a.webm", "a fox a.webm"), ("b.mov", "a fox b.mov")]),
    ]
    write_jsonl(manifest, tmp_path / "m.jsonl", clips)
    again = read_manifest(tmp_path / "m.jsonl", clips)
    assert [[c.caption for c in s.scenes] for s in again.stories] == [
        [caption for _, caption in scenes] for _, scenes in told
    ]


def test_every_caption_that_is_missing_is_named(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(ManifestError) as error:
        read_clip_folder(tmp_path)
    first, second, third = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path}/a.mp4: needs its caption in a.txt (No such file")
    assert second == f"{tmp_path}/b.txt: is empty, needs what b.mp4 shows"
    assert third == f"{tmp_path}/c.txt: is not UTF-8, needs UTF-8 text"


def test_a_folder_without_videos_is_named(tmp_path):
    with pytest.raises(ManifestError, match="holds no video, needs some of .mp4"):
        read_clip_folder(tmp_path)
    with pytest.raises(ManifestError, match="none: no such folder"):
        read_clip_folder(tmp_path / "none")
