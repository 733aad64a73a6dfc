import json
import os
import subprocess
import sys
from itertools import cycle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m2dit_jax.data.manifest import Manifest, ManifestError, read_manifest, write_jsonl
from m2dit_jax.data.story_table import ClipScene, ManifestStory


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def read(root):
    def read(content, min_scenes=1):
        path = root / "manifest"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_manifest(path, root, min_scenes)

    return read


@pytest.fixture
def problems(read):
    def problems(content, min_scenes=1):
        with pytest.raises(ManifestError) as error:
            read(content, min_scenes)
        return str(error.value).splitlines()

    return problems


def story(**scene):
    return json.dumps({"scenes": [{"video": "a.mp4", "caption": "a", **scene}]})


def test_a_csv_holds_clips_with_metadata(read, root):
    manifest = read('fps,caption,path\n25,"a, b",a.mp4\n\n30,c,b.mp4\n')
    assert manifest.kind == "clips"
    assert [s.scenes for s in manifest.stories] == [
        (ClipScene(root / "a.mp4", "a, b", None, None, {"fps": "25"}, f"{root}/manifest:2"),),
        (ClipScene(root / "b.mp4", "c", None, None, {"fps": "30"}, f"{root}/manifest:4"),),
    ]


def test_the_references_json_holds_stories(read, root):
    values = [{"url": "a.mp4", "caption": "x", "vid": "1"}, {"url": "b.mp4", "caption": "y"}]
    manifest = read(json.dumps([{"prefix": "one", "values": values, "other": 3}]))
    assert manifest.kind == "stories"
    (only,) = manifest.stories
    assert only.name == "one"
    assert [(s.video.name, s.caption, dict(s.metadata)) for s in only.scenes] == [
        ("a.mp4", "x", {"vid": "1"}),
        ("b.mp4", "y", {}),
    ]
    assert only.scenes[1].place == f"{root}/manifest: story 1 'one', scene 2"


def test_json_lines_go_there_and_back(read, root):
    text = '{"name": "n", "scenes": [{"video": "a.mp4", "caption": "é", "start": 1, "k": [1]}]}\n'
    manifest = read(text + story(end=2.5))
    assert manifest.stories[0].scenes[0].start == 1.0
    assert manifest.stories[1] == ManifestStory(
        "line 2",
        (ClipScene(root / "a.mp4", "a", None, 2.5, {}, f"{root}/manifest:2, scene 1"),),
    )
    write_jsonl(manifest, root / "again", root)
    again = read_manifest(root / "again", root)

    def content(m: Manifest):
        return [
            (s.name, [(c.video, c.caption, c.start, c.end, dict(c.metadata)) for c in s.scenes])
            for s in m.stories
        ]

    assert content(again) == content(manifest)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty, needs at least one scene"),
        ("[]", "holds no scene"),
        (b"caption,path\n\xff,a.mp4", ":2: byte 0xff is not UTF-8"),
        ("caption,path\na\0,a.mp4", ":2: a null character"),
        ("fps,path\n1,a.mp4", ":1: needs a column 'caption', found 'fps, path'"),
        ("path,caption,path\n", ":1: the column 'path' stands twice"),
        ("path,caption\na.mp4", ":2: found 1 values, needs 2"),
        ("path,caption\na.mp4, ", ":2: caption: found ' ', needs a text"),
        ('path,caption\na.mp4,"x', "is not readable as CSV"),
        ("path,caption\nmissing.mp4,x", ":2: path: 'missing.mp4' no such file in"),
        ("path,caption\nfolder,x", ":2: path: 'folder' is a folder, needs a video"),
        ("path,caption\n../a.mp4,x", ":2: path: '../a.mp4' leaves the root"),
        ("path,caption\n/etc/passwd,x", "leaves the root"),
        ("[1]", "story 1: found 1, needs an object"),
        ('[{"prefix": "p"}]', "story 1 'p': values: found nothing, needs a list of scenes"),
        ('[{"values": []}]', "story 1: values: found [], needs a list"),
        ('[{"values": [7]}]', "story 1, scene 1: found 7, needs an object"),
        ('[{"prefix": 3, "values": []}]', "prefix: found 3, needs a text"),
        ('[{"values": [{"caption": "x"}]}]', "url: found nothing, needs the path of a video"),
        ('[{"values": NaN}]', "NaN is no number of JSON"),
        ('[{"a": 1, "a": 2}]', "the key 'a' stands twice"),
        ("[{", ":1: is not readable as JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"scenes": 1}', ":1: scenes: found 1, needs a list of scenes"),
        ('{"scene": []}', ":1: unknown key 'scene', needs name and scenes"),
        (story() + "\n{", ":2: is not readable as JSON"),
        (story(start=-1), "start: found -1, needs seconds from 0 on"),
        (story(start="1"), "start: found '1', needs seconds"),
        (story(end=True), "end: found True, needs seconds"),
        (story(start=3, end=2), "end 2 must be after start 3"),
        (story(end=0), "end 0 must be after start 0"),
        (story(end=10**400), "end: found 1000"),
        (story(first_frame=-1), "first_frame: found -1, needs the number of a frame"),
        (story(first_frame=1.0), "first_frame: found 1.0, needs the number of a frame"),
        (story(end_frame=True), "end_frame: found True, needs the number of a frame"),
        (story(end_frame=2**70), "end_frame: found 1180"),
        (story(first_frame=5, end_frame=5), "end_frame 5 must be after first_frame 5"),
        (story(end_frame=0), "end_frame 0 must be after first_frame 0"),
        (story(exact_start="1/0"), "exact_start: found '1/0', needs seconds as a fraction"),
        (story(exact_end=1.5), "exact_end: found 1.5, needs seconds as a fraction"),
        (story(exact_end="1e99"), "exact_end: found '1e99', needs seconds as a fraction"),
        (story(exact_start="3/2", exact_end="1"), "end 1 must be after start 1.5"),
        (
            story(start=1.04, exact_start="25/24"),
            "start 1.04 and exact_start 25/24 (which is 1.04167) differ, needs one of them",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(problems, root, content, message):
    lines = problems(content)
    assert message in lines[0] and lines[0].startswith(str(root / "manifest"))


def test_times_are_kept_exactly_and_in_frames(root):
    path = root / "manifest"
    times = {"start": 1.042, "exact_start": "25/24", "exact_end": "61/24"}
    path.write_text(story(**times, first_frame=25, end_frame=61))
    scene = read_manifest(path, root).stories[0].scenes[0]
    assert (scene.start, scene.end) == (25 / 24, 61 / 24)
    assert (scene.first_frame, scene.end_frame) == (25, 61)
    assert scene.metadata == {}
    path.write_text(story(start=1.042))
    scene = read_manifest(path, root).stories[0].scenes[0]
    assert (scene.start, scene.first_frame, scene.end_frame) == (1.042, None, None)


def test_all_problems_come_together_and_many_are_counted(problems):
    lines = problems("path,caption\n" + "missing.mp4,\n" * 60)
    assert len(lines) == 51
    assert lines[-1] == "... and 70 more problems"


def test_links_out_of_the_root_and_loops_are_refused(problems, root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "c.mp4"
    outside.touch()
    (root / "link.mp4").symlink_to(outside)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    lines = problems("path,caption\nlink.mp4,x\nloop.mp4,x")
    assert "'link.mp4' leaves the root" in lines[0]
    assert "'loop.mp4'" in lines[1]


def test_stories_must_be_long_enough_and_have_names_of_their_own(problems):
    two = json.dumps({"name": "n", "scenes": json.loads(story())["scenes"] * 2})
    lines = problems(f"{two}\n{two}\n{story()}", min_scenes=2)
    assert "stories 1 and 2 are both called 'n'" in lines[0]
    assert "story 'line 3' has 1 scenes, needs at least 2" in lines[1]


def test_a_manifest_that_is_no_file(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path, tmp_path)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "no", tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prefix", "values", "url", "caption", "scenes", "video", "start"]),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode), JSON.map(json.dumps))
)
@example(b"[[]]")
@example(b"path,caption\r\na.mp4,\x85x")
def test_whatever_comes_in_stories_or_a_clear_error_come_out(tmp_path_factory, content):
    root = tmp_path_factory.getbasetemp()
    path = root / "any-manifest"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        assert read_manifest(path, root).stories
    except ManifestError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    "content",
    [
        "path,caption\n" + "a.mp4,x\nmissing.mp4,y\nb.mp4,\n",
        json.dumps(
            [
                {"values": [{"url": name, "caption": text}]}
                for name, text in (("a.mp4", "x"), ("missing.mp4", "y"), ("b.mp4", ""))
            ]
        ),
        story() + "\n" + story(video="missing.mp4") + "\n" + story(video="b.mp4", caption=""),
    ],
)
def test_problems_come_in_the_order_of_the_file(problems, content):
    missing, empty = problems(content)
    assert "'missing.mp4' no such file" in missing and "caption: found ''" in empty


def test_names_are_whole_characters(problems):
    (line,) = problems(json.dumps({"name": "a\ud800"} | json.loads(story())))
    assert "name: found half of a surrogate pair" in line


def test_each_file_is_looked_at_once(root, read, monkeypatch):
    looks = []
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: looks.append(path) or access(path, mode))
    manifest = read("path,caption\n" + "a.mp4,x\nb.mp4,y\n" * 500)
    assert sorted(looks) == [root / "a.mp4", root / "b.mp4"]
    assert manifest.stories[-1].scenes[0].video == root / "b.mp4"
    assert [s.name for s in manifest.stories[997:999]] == ["clip 998", "clip 999"]
    assert set(manifest.scene_counts) == {1}
    with pytest.raises(IndexError):
        manifest.stories[1000]


_MEMORY = """
import resource, sys
from pathlib import Path
from m2dit_jax.data.manifest import read_manifest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

path, before = Path(sys.argv[1]), peak()
manifest = read_manifest(path, path.parent)
print(len(manifest.stories), peak() - before, manifest.stories[-1].scenes[0].caption)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_many_clips_take_little_memory(root):
    """100,000 clips with captions of 100 letters, which took 126 MB as objects."""
    caption = "a fox " * 17
    lines = [
        json.dumps({"scenes": [{"video": name, "caption": f"{caption}{number}"}]})
        for number, name in zip(range(100_000), cycle(["a.mp4", "b.mp4"]), strict=False)
    ]
    (root / "many.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-c", _MEMORY, str(root / "many.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stories, kilobytes, last = done.split(maxsplit=2)
    assert (stories, last.strip()) == ("100000", f"{caption}99999")
    assert int(kilobytes) < 50_000
