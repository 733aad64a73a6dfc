"""The app without a browser: its form, its folder, its runs, what it shows and gives out."""

import asyncio
import errno
import json
import os
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from m2dit_jax.app import main
from m2dit_jax.stories.progress import StoryProgress
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.errors import NotFinite
from m2dit_jax.utils.files import write_json
from m2dit_jax.utils.media import write_mp4
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.guard import Guard
from m2dit_jax.webapp.hosts import Hosts
from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.runs import Run, Runner
from m2dit_jax.webapp.server import start_server
from m2dit_jax.webapp.shelf import Shelf
from m2dit_jax.webapp.view import state_view, story_view
from tests.utils.test_locks import hold
from tests.webapp.samples import picture_in

MODEL = AppModel("fake", StoryOptions())


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "out")


@pytest.fixture
def uploaded(shelf):
    path = shelf.uploads / "my clip <b>.mov"
    write_mp4(shelf.uploads / "clip.mp4", np.zeros((3, 16, 16, 3), np.uint8), 4)
    return (shelf.uploads / "clip.mp4").rename(path)


def story(*prompts):
    return Storyboard.from_mapping({"scenes": [{"prompt": prompt} for prompt in prompts]})


def progress(**fields):
    return StoryProgress(
        **({"scenes": 2, "finished": (), "at_work": (0,), "step": 1, "steps": 4} | fields)
    )


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_upload_is_kept_under_a_name_of_our_own(shelf, uploaded):
    content = uploaded.read_bytes()
    kept = shelf.keep_clip(uploaded)
    assert kept.parent == shelf.clips and kept.stem.isalnum() and len(kept.stem) == 24
    assert kept.read_bytes() == content
    assert not uploaded.exists()


def test_a_picture_is_kept_as_a_clip_is_and_one_that_is_none_refused(shelf, uploaded):
    kept = shelf.keep_picture(picture_in(shelf.uploads, "my fox.jpg"))
    assert kept.parent == shelf.clips and kept.suffix == ".png" and len(kept.stem) == 24
    name = shelf.new()
    shelf.keep_draft(name, {"scenes": [{"prompt": "a fox", "image": str(kept)}]})
    os.utime(kept, (0, 0))
    shelf._remove_unused()
    assert kept.exists() and shelf.shows(kept)
    with pytest.raises(ValueError, match="^needs a picture, one of PNG"):
        shelf.keep_picture(uploaded)
    assert not list(shelf.uploads.iterdir())


def test_uploads_are_bounded_in_total_and_what_nobody_uses_makes_room(shelf, uploaded, monkeypatch):
    kept = shelf.keep_clip(uploaded)
    size = kept.stat().st_size
    stray = shelf.uploads / "0" / "stray.mp4"
    stray.parent.mkdir()
    stray.write_bytes(bytes(size))
    monkeypatch.setattr("m2dit_jax.webapp.shelf.MAX_UPLOAD_BYTES", 3 * size)
    assert shelf.has_room_for(size) and not shelf.has_room_for(size + 1)
    assert stray.exists()  # it may be in use
    for path in (stray, kept):
        os.utime(path, (0, 0))
    name = shelf.new()
    shelf.keep_draft(name, {"scenes": [{"prompt": "a fox", "video": str(kept)}]})
    assert shelf.has_room_for(2 * size) and not shelf.has_room_for(2 * size + 1)
    assert kept.exists() and not stray.exists()
    stray.write_bytes(b"")
    with shelf.in_use():
        assert not list(shelf.uploads.iterdir()) and kept.exists()


def test_uploads_of_another_app_in_the_same_folder_are_left(shelf, uploaded):
    other = hold(shelf.output / ".lock")
    with shelf.in_use():
        assert uploaded.exists()
    other.communicate("")
    with shelf.in_use():
        assert not uploaded.exists()


def test_a_story_that_was_never_finished_has_its_form(shelf):
    name = shelf.new()
    assert shelf.form(name) is None
    shelf.keep_form(name, story("a fox", "it runs"))
    assert shelf.storyboard(name) is None
    assert [scene["prompt"] for scene in shelf.form(name)["scenes"]] == ["a fox", "it runs"]
    shelf.keep_draft(name, {"scenes": [{"prompt": "a dog"}, {}]})
    assert shelf.form(name) == {"scenes": [{"prompt": "a dog"}, {}]}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"scenes": 3}', '{"scenes": ["a"]}', "[" * 100_000]
)
def test_a_damaged_storyboard_is_named(shelf, content):
    name = shelf.new()
    (shelf.output / name / "storyboard.json").write_text(content)
    with pytest.raises(ValueError, match=r"story-001/storyboard\.json: is no storyboard \(."):
        shelf.form(name)


def test_uploads_that_are_no_video_too_large_or_not_uploaded_are_refused(
    shelf, uploaded, monkeypatch, tmp_path
):
    (shelf.uploads / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="^not a readable video"):
        shelf.keep_clip(shelf.uploads / "text.mp4")
    (shelf.uploads / "link.mp4").symlink_to("/etc/passwd")
    elsewhere = (tmp_path / "elsewhere.mp4", shelf.uploads / "link.mp4", shelf.uploads / "../x.mp4")
    elsewhere[0].write_bytes(uploaded.read_bytes())
    for path in elsewhere:
        with pytest.raises(ValueError, match="not uploaded here"):
            shelf.keep_clip(path)
    monkeypatch.setattr("m2dit_jax.webapp.shelf.MAX_CLIP_BYTES", 100)
    with pytest.raises(ValueError, match="needs at most"):
        shelf.keep_clip(uploaded)
    assert not list(shelf.clips.iterdir())


def test_stories_are_numbered_and_nothing_else_passes_for_one(shelf):
    assert [shelf.new(), shelf.new()] == ["story-001", "story-002"]
    (shelf.output / "story-003").symlink_to("/etc")
    assert shelf.names() == ["story-001", "story-002"]
    for name in ("../out", "/etc", "story-003", "clips", "story-004", ""):
        with pytest.raises(ValueError, match="there is none of that name"):
            shelf.folder(name)


def test_no_story_is_there_before_its_form(shelf, monkeypatch):
    seen = []

    def write(path, content):
        write_json(path, content)
        seen.append(shelf.names())

    monkeypatch.setattr("m2dit_jax.webapp.shelf.write_json", write)
    draft = {"scenes": [{"prompt": "a"}]}
    assert shelf.new(draft) == "story-001"
    assert seen == [[]] and not list(shelf.uploads.iterdir())
    assert shelf.form("story-001") == draft


def test_an_app_on_the_same_folder_may_be_quicker(shelf, monkeypatch):
    drafts = [{"scenes": [{"prompt": text}]} for text in "ab"]
    shelf.new(drafts[0])
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "names", lambda: [])  # as they were before the other one's story
        assert shelf.new(drafts[1]) == "story-002"
    assert [shelf.form(name) for name in shelf.names()] == drafts


def test_a_checkpoint_within_what_is_served_is_refused(tmp_path):
    for output in (tmp_path, tmp_path / "run" / "out", tmp_path / "run"):
        with pytest.raises(ValueError, match="needs a folder apart from"):
            Shelf(output, tmp_path / "run")


def test_only_files_of_stories_and_checked_clips_are_given_out(shelf, tmp_path):
    def app():
        raise AssertionError

    guard = Guard(app, shelf, Hosts("127.0.0.1"))
    folder = shelf.output / shelf.new()
    (folder / "link").symlink_to("/etc/passwd")
    for path in ("/", "/config", "/gradio_api/upload", f"/gradio_api/file={folder}/story.mp4"):
        assert guard.allows(path), path
    for name in (
        *("/etc/passwd", "etc/passwd", "", "http://127.0.0.1:1/x", "file:///etc/passwd", "a\0b"),
        *(f"{folder}/../../run", f"{folder}/link", str(tmp_path / "run"), str(shelf.uploads / "a")),
        *(str(shelf.output), f"{shelf.output}-other/story-001/x", "../../../etc/passwd"),
    ):
        assert not guard.allows(f"/gradio_api/file={name}"), name
        assert not guard.allows(f"/file={name}"), name
    assert not guard.allows("/gradio_api/proxy=http://127.0.0.1:1/x")
    for closed in ("info", "openapi.json", "call/_generate", "run/predict", "api/predict", "runs/"):
        assert not guard.allows(f"/gradio_api/{closed}")


def answer(shelf, path="/", **headers):
    """Status of a request to a guarded app, and the headers that the app got."""
    got, sent = [], []

    async def app(scope, receive, send):
        got.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:7860"} | {k.replace("_", "-"): v for k, v in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw}
    guard = Guard(app, shelf, Hosts("127.0.0.1"))
    asyncio.run(guard(scope, lambda: None, send))
    return sent[0]["status"], got


@pytest.mark.parametrize(
    ("path", "error", "status"),
    [
        ("/gradio_api/queue/join", KeyError(375), 410),
        ("/gradio_api/queue/join", ValueError("else"), 500),
        ("/gradio_api/queue/data", KeyError(375), 500),
    ],
)
def test_an_event_of_a_part_that_was_drawn_anew_is_no_error_of_the_server(
    path, error, status, shelf
):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 500})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise error  # as Starlette does

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"host", b"127.0.0.1:7860")]}
    guarded = Guard(app, shelf, Hosts("127.0.0.1"))(scope, lambda: None, send)
    with nullcontext() if status == 410 else pytest.raises(type(error)):
        asyncio.run(guarded)
    assert [message.get("status") for message in sent] == [status, None]


def test_only_requests_to_this_server_by_its_own_page_are_answered(shelf):
    assert answer(shelf)[0] == 200
    assert answer(shelf, host="evil.example") == (403, [])
    assert answer(shelf, origin="http://evil.example") == (403, [])
    forwarded = {"x_forwarded_host": "evil.example", "forwarded": "host=evil.example"}
    assert answer(shelf, **forwarded) == (200, [{b"host": b"127.0.0.1:7860"}])


def test_uploads_say_their_size_and_are_no_larger_than_a_clip_may_be(shelf, monkeypatch):
    def upload(**headers):
        return answer(shelf, "/gradio_api/upload", **headers)[0]

    assert upload() == 411
    assert upload(content_length="-1") == 411
    assert upload(content_length="1000") == 200
    assert upload(content_length="201000001") == 413
    (shelf.uploads / "much").touch()
    os.truncate(shelf.uploads / "much", 1_999_999_500)  # it takes no room on the disk
    assert upload(content_length="1000") == 413
    (shelf.uploads / "much").unlink()
    usage = SimpleNamespace(total=2000, free=999)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert upload(content_length="1000") == 507


def test_stories_are_made_one_after_the_other(shelf):
    release, order = threading.Event(), []

    def make(storyboard, folder, report):
        order.append(folder.name)
        assert release.wait(10)
        report(progress())

    runner = Runner(make)
    folders = [shelf.folder(shelf.new()) for _ in range(2)]
    first = runner.start(story("a"), folders[0])
    wait_for(lambda: first.state == "running")
    second = runner.start(story("b"), folders[1])
    with pytest.raises(ValueError, match="story-001 is being made already"):
        runner.start(story("a"), folders[0])
    assert (second.state, order) == ("waiting", ["story-001"])
    release.set()
    assert first.ended.wait(10) and second.ended.wait(10)
    assert (first.state, second.state) == ("done", "done")
    assert runner.of(folders[1]) is second


def test_a_story_is_cancelled_at_work_and_while_it_waits(shelf):
    reports = []

    def make(storyboard, folder, report):
        while True:
            report(progress())
            reports.append(folder)
            time.sleep(0.01)

    runner = Runner(make)
    first, second = (runner.start(story("a"), shelf.folder(shelf.new())) for _ in range(2))
    wait_for(lambda: reports)
    assert "waiting</div>" in story_view(second if first.state == "running" else first)
    waiting = second if first.state == "running" else first
    waiting.cancel()
    assert waiting.ended.wait(10)
    (first if waiting is second else second).cancel()
    assert first.ended.wait(10) and second.ended.wait(10)
    assert (first.state, second.state) == ("cancelled", "cancelled")
    assert set(reports) != {first.folder, second.folder}
    assert "not made</div>" in story_view(first)


def test_what_went_wrong_is_text_and_the_next_story_goes_on(shelf, capsys):
    errors = [StoryboardError("storyboard: scenes[1].prompt: too long"), TypeError("oh")]

    def make(storyboard, folder, report):
        if errors:
            raise errors.pop(0)

    runner = Runner(make)
    folder = shelf.folder(shelf.new())
    found = []
    for _ in range(3):
        run = runner.start(story("a"), folder)
        assert run.ended.wait(10)
        found.append((run.state, run.error))
    assert found == [
        ("failed", "storyboard: scenes[1].prompt: too long"),
        ("failed", "TypeError: oh (the terminal says more)"),
        ("done", ""),
    ]
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_a_line_for_the_user_and_nothing_for_the_terminal(shelf, capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(shelf.output / "story.mp4"))
    errors = [full, RuntimeError("saving failed: No space left on device")]

    def make(storyboard, folder, report):
        raise errors.pop(0)

    runner = Runner(make)
    folder = shelf.folder(shelf.new())
    for start in (f"{shelf.output}/story.mp4: No space", "standard output, or a file, cannot"):
        run = runner.start(story("a"), folder)
        assert run.ended.wait(10)
        assert run.state == "failed" and run.error.startswith(start)
    assert capsys.readouterr().err == ""


def test_a_form_that_cannot_be_kept_starts_nothing(shelf):
    def keep():
        raise OSError(errno.ENOSPC, "full")

    runner = Runner(lambda *_: None)
    folder = shelf.folder(shelf.new())
    with pytest.raises(OSError, match="full"):
        runner.start(story("a"), folder, keep)
    assert runner.of(folder) is None
    assert runner.start(story("a"), folder).ended.wait(10)


def test_a_story_that_was_made_opens_again(shelf):
    name = shelf.new()
    assert shelf.storyboard(name) is None
    (shelf.folder(name) / "storyboard.json").write_text(json.dumps({"scenes": [{"prompt": "a"}]}))
    assert shelf.storyboard(name) == {"scenes": [{"prompt": "a"}]}


def test_without_gradio_it_is_told_what_to_install(shelf, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install .*\[app\]"):
        start_server(Desk(shelf, Runner(lambda *_: None), MODEL), "127.0.0.1", None)


def test_a_checkpoint_that_is_none_is_told_before_the_server_starts(tmp_path, capsys):
    assert main([f"--checkpoint={tmp_path / 'none'}", f"--output={tmp_path / 'out'}"]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_lost_of_prompts_and_numbers_that_are_none_are_told(tmp_path):
    board = Storyboard.from_mapping({"scenes": [{"prompt": "你好"}]})
    run = Run(board, tmp_path)
    note = "storyboard: scenes[0].prompt: of the prompt the tokenizer does not know 2 of 2"
    run.report(StoryProgress(1, (), notes=(note,)))
    assert "<li>Scene 1, prompt: of the prompt the tokenizer does not know 2 of 2</li>" in (
        state_view(run)
    )

    def make(*_):
        raise NotFinite("scene 1: generated latents: 3 of 8 values are not finite")

    failed = Runner(make).start(board, tmp_path)
    assert failed.ended.wait(10)
    assert failed.state == "failed" and failed.error.startswith("scene 1: generated latents")
