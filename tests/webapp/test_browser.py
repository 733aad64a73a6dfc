"""The app in a real browser, by mouse and keys. Tests share an app: its start takes longest."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from m2dit_jax import train
from m2dit_jax.data.shapes import Scene, render_scene
from m2dit_jax.utils.media import write_mp4
from tests.browser import find_browser, open_browser
from tests.webapp.samples import picture_in

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

ROOT = Path(__file__).parent.parent.parent
TINY = [
    *("--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"),
    *("--config.model.time_dim=16", "--config.train.batch_size=2", "--config.train.eval_every=0"),
    *("--config.train.steps=1", "--config.train.warmup_steps=0", "--config.sample.steps=2"),
]


@pytest.fixture(scope="module", autouse=True)
def needs_browser_and_gradio():
    pytest.importorskip("gradio", reason="optional extra: gradio, of the extra app")
    find_browser()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert train.main([f"--config={ROOT}/configs/base.py", *TINY, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def app(checkpoint, tmp_path_factory):
    """The command as users start it; its address and output folder."""
    output = tmp_path_factory.mktemp("app") / "out"
    command = [sys.executable, "-m", "m2dit_jax.app"]
    with started([*command, f"--checkpoint={checkpoint}", f"--output={output}"]) as address:
        yield address, output


@contextmanager
def started(command):
    """In a process of its own: Gradio does not see through this one's checks of types."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            yield address
        finally:
            process.terminate()


# The app with a model that finishes scene 1 at once and takes long for scene 2.
SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from m2dit_jax.stories.progress import StoryProgress
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.utils.media import write_mp4
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.server import start_server
from m2dit_jax.webapp.shelf import Shelf

def make(storyboard, folder, report):
    write_mp4(folder / "scene_1.mp4", np.zeros((2, 16, 16, 3), np.uint8), 4)
    for step in range(1000):
        report(StoryProgress(
            scenes=3, finished=(0,), at_work=(1,), step=step, steps=1000, seconds_left=9.0))
        time.sleep(0.1)

def look_ahead(storyboard, folder):
    return (), [f"scene {n + 1}: to be made: new" for n in range(len(storyboard.scenes))]

model = AppModel("slow", StoryOptions(frames=4, height=32, width=32), look_ahead=look_ahead)
desk = Desk(Shelf(Path(sys.argv[1])), Runner(make), model)
print(start_server(desk, "127.0.0.1", None), flush=True)
time.sleep(400)
"""


def field(label):
    """The topmost field of that label."""
    labels = "[...document.querySelectorAll('label')]"
    named = f"{labels}.find(l => l.textContent.trim().startsWith('{label}'))"
    return f"{named}?.querySelector('textarea, input')"


def click(page, text, number=0):
    buttons = "[...document.querySelectorAll('button')]"
    page.click(f"{buttons}.filter(b => b.textContent.trim().startsWith('{text}'))[{number}]")


def choose(page, story):
    page.click("document.querySelector('input[aria-label=Story]')")
    page.click(f"document.querySelector('[role=option][aria-label={story}]')")


def holds(label, text):
    return f"{field(label)}?.value === {text!r}"


def has_field(label):
    return f"[...document.querySelectorAll('label')].some(l => l.textContent.includes('{label}'))"


def status(address, path):
    return request(address, f"gradio_api/file={path}")


def request(address, path, **headers):
    """The status of an answer; none of them may allow another origin."""
    asked = urllib.request.Request(f"{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert "access-control-allow-origin" not in answer.headers
            return answer.status
    except urllib.error.HTTPError as error:
        assert "access-control-allow-origin" not in error.headers
        return error.code


# What takes text or numbers; lists, boxes and files have their own tests.
TYPED = "[...document.querySelectorAll(':is(textarea, input[type=text], input[type=number])')]"
FIELDS = f"{TYPED}.filter(f => f.offsetParent && f.getAttribute('role') !== 'listbox')"


def type_in_every_field(page):
    """Asserts that every field that can be seen takes what is typed; how many there are."""
    count = page.run(f"{FIELDS}.length")
    for number in range(count):
        page.type(f"{FIELDS}[{number}]", str(number % 2))
    # None was put back by a later one.
    assert page.run(f"{FIELDS}.map(f => f.value)") == [str(n % 2) for n in range(count)]
    return count


def open_settings(page, scenes):
    click(page, "Settings of the story")
    page.wait(f"{field('steps')}?.offsetParent")
    for number in range(1, scenes + 1):
        click(page, f"Settings of scene {number}")
    named = "f.closest('label')?.textContent.trim().startsWith('frames')"
    page.wait(f"{TYPED}.filter(f => f.offsetParent && {named}).length > {scenes}")


def wait_for_text(path, text):
    """Until a file that is being written has the text."""
    deadline = time.monotonic() + 20
    while text not in path.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, f"{path} lacks {text!r}"
        time.sleep(0.1)


def fills_the_width(page):
    """Whether nothing lies beyond the right edge."""
    root = "document.documentElement"
    return page.run(f"{root}.scrollWidth <= {root}.clientWidth")


@pytest.mark.slow
def test_a_story_is_made_from_the_form_and_its_files_alone_are_served(app, checkpoint, tmp_path):
    address, output = app
    clip = tmp_path / "my_clip.mp4"
    write_mp4(clip, render_scene(Scene("cross", "blue", "gray", "left"), 4, 32), 4)
    with open_browser() as page:
        page.open(address)
        page.wait(has_field("Scene 3"))
        click(page, "Remove", 2)
        page.wait(f"!{has_field('Scene 3')}")
        click(page, "Settings of the story")
        seed = "document.querySelector('#story-seed input')"
        page.wait(f"{seed}?.offsetParent")
        page.type(seed, "5")
        page.type(field("steps"), "1")
        page.type(field("Scene 1"), "A blue cross moves left, on gray.")
        page.type(field("Scene 2"), "a purple cross")
        page.attach("input[type=file]", clip)
        page.wait("document.querySelector('.clip .kept')")
        page.type(field("Scene 2"), "a purple cross")
        click(page, "Generate")
        assert "Scene 2, prompt: prompt 'a purple cross' has unknown words" in page.wait(
            "document.querySelector('.problems')?.innerText"
        )
        page.type(field("Scene 2"), "It moves up on navy!")
        click(page, "Generate")
        page.wait("document.querySelector('.state.done')", 60)
        page.wait("[...document.querySelectorAll('.story video')].length === 3")
        page.wait("[...document.querySelectorAll('.story video')].every(v => v.readyState >= 2)")
        links = "[...document.querySelectorAll('.downloads a')].map(a => a.download)"
        assert page.run(links) == ["story.mp4", "storyboard.json", "index.html"]
        click(page, "Another take")
        page.wait("document.querySelector('.outlook')?.innerText.includes('its take: 0 -> 1')")
        click(page, "Generate")
        page.wait("document.querySelectorAll('.takes video').length === 2", 60)
        assert page.errors == []
        elsewhere = [url for url in page.requests if url.startswith("http")]
        assert elsewhere and all(url.startswith(address) for url in elsewhere)
    folder = output / "story-001"
    storyboard = json.loads((folder / "storyboard.json").read_text())
    assert (storyboard["seed"], storyboard["steps"]) == (5, 1)
    assert status(address, folder / "story.json") == 200
    for path in (
        *("/etc/passwd", "%2Fetc%2Fpasswd", f"{folder}/../../../run/metrics.jsonl", "README.md"),
        *(checkpoint / "metrics.jsonl", clip, f"{address}config"),
    ):
        assert status(address, path) == 403, path
    for path in ("openapi.json", "gradio_api/info", "gradio_api/openapi.json", "docs"):
        assert request(address, path) in (403, 404), path
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert request(address, "config", **headers) == 403


@pytest.mark.slow  # makes a story, of two scenes and a step
def test_pictures_are_given_used_otherwise_and_taken_off(app, tmp_path):
    address, output = app
    with open_browser() as page:
        page.open(address)
        page.wait(has_field("Scene 3"))
        click(page, "Remove", 2)
        page.wait(f"!{has_field('Scene 3')}")
        click(page, "Settings of the story")
        page.wait(f"{field('steps')}?.offsetParent")
        page.type(field("steps"), "1")
        page.attach("input[type=file][accept*=image]", picture_in(tmp_path, width=40))
        page.wait("document.querySelector('.clip img')?.naturalWidth === 40")
        page.wait("document.querySelector('.clip-size').innerText.includes('begins with it')")
        # Its slider moves the part that is kept.
        page.wait(has_field("part of the picture"))
        click(page, "Use as a reference")
        page.wait("document.querySelector('.clip-size').innerText.includes('no part of the video')")
        note = "this model was not trained with pictures beside scenes"
        page.wait(f"document.querySelector('.notes')?.innerText.includes('{note}')")
        click(page, "Begin with it")
        page.wait("document.querySelector('.clip-size').innerText.includes('begins with it')")
        story = page.wait("new URLSearchParams(location.search).get('story')")
        wait_for_text(output / story / "draft.json", "first_frame")
        page.open(f"{address}?story={story}")
        page.wait("document.querySelector('.clip img')?.naturalWidth === 40")
        click(page, "Generate")
        page.wait("document.querySelector('.state.done')", 60)
        click(page, "No picture")
        page.wait("!document.querySelector('.clip img')")
        assert [error for error in page.errors if " 410 " not in error] == []
    scenes = json.loads((output / story / "storyboard.json").read_text())["scenes"]
    assert (
        scenes[0]["use"] == "first_frame" and (output / "clips") == Path(scenes[0]["image"]).parent
    )


@pytest.fixture(scope="module")
def slow_app(tmp_path_factory):
    """The app with the model that takes long; its address and output folder."""
    output = tmp_path_factory.mktemp("slow") / "out"
    with started([sys.executable, "-c", SLOW, str(output)]) as address:
        yield address, output


@pytest.mark.slow  # it types in 50 fields
def test_every_field_of_a_story_can_be_typed_in(slow_app):
    address, output = slow_app
    with open_browser() as page:
        page.open(address)
        page.wait(
            holds("Scene 3", "The fox sleeps in a warm cave while snow falls outside at night.")
        )
        click(page, "Add a scene")
        page.wait(has_field("Scene 4"))
        open_settings(page, 4)
        assert type_in_every_field(page) > 4 * 5 + 8
        page.type(field("steps"), "0")
        click(page, "Generate")
        told = "[...document.querySelectorAll('.problems')].map(p => p.innerText).join()"
        page.wait(f"{told}.includes('steps: found 0, needs a whole number, from 1 to 100000')")
        wrong = (
            "document.querySelector('#story-steps.wrong, .wrong #story-steps, #story-steps .wrong')"
        )
        assert "found 0" in page.wait(f"{wrong}?.innerText")
        assert page.errors == []
    assert len(json.loads((output / "story-001" / "draft.json").read_text())["scenes"]) == 4


@pytest.mark.slow  # one browser opens four pages
def test_typed_work_outlives_a_reload_and_a_cancelled_story(slow_app):
    address, output = slow_app
    with open_browser() as page:
        page.open(address)
        page.wait(has_field("Scene 3"))
        page.type(field("Scene 2"), "A dog, <b>running</b>.")
        story = page.wait("new URLSearchParams(location.search).get('story')")
        page.wait(f"document.querySelector('input[aria-label=Story]')?.value === '{story}'")
        wait_for_text(output / story / "draft.json", "A dog, <b>running</b>.")
        page.open(f"{address}?story={story}")
        page.wait(holds("Scene 2", "A dog, <b>running</b>."))
        page.type(field("Scene 1"), "A cat.")
        page.wait("document.querySelector('.outlook')?.innerText.includes('Generate makes 3 of 3')")
        click(page, "Generate")
        page.wait("document.querySelector('.state.running')?.innerText.includes('step')")
        assert json.loads((output / story / "form.json").read_text())["scenes"][0] == {
            "prompt": "A cat."
        }
        page.wait("document.querySelectorAll('.cards video').length === 1")
        page.open(f"{address}?story={story}")  # it goes on, and the page looks on again
        page.wait("document.querySelector('.state.running')?.innerText.includes('step')")
        click(page, "Cancel")
        page.wait("document.querySelector('.state.cancelled')")
        page.open(address)
        page.wait(f"document.querySelector('.gallery a[href*={story}]')")
        page.click(f"document.querySelector('.gallery a[href*={story}]')")
        page.wait(f"{holds('Scene 1', 'A cat.')} && document.querySelector('.state.cancelled')")
        page.wait("document.querySelectorAll('.cards video').length === 1")
        assert type_in_every_field(page) == 3
        click(page, "New story")
        page.wait(holds("Scene 3", ""))
        choose(page, story)
        page.wait(holds("Scene 3", "0"))
        # A page that is left ends its requests.
        left = ("AbortError", "errored out")
        assert [error for error in page.errors if not any(text in error for text in left)] == []


@pytest.mark.slow  # by keys alone, on a phone
def test_scenes_are_changed_by_keys_on_a_phone(slow_app):
    with open_browser() as page:
        page.size(390, 844)
        page.dark(True)
        page.open(slow_app[0])
        page.wait(has_field("Scene 3"))
        assert fills_the_width(page)
        page.type(field("Scene 2"), "Second")
        for button in ("Lock", "Lock the others", "Another take", "Up"):
            page.press("Tab")
            assert page.run("document.activeElement.textContent.trim()") == button
        page.press("Enter")
        page.wait(holds("Scene 1", "Second"))
        # The focus goes with the scene: it can be moved on by keys.
        page.wait("document.activeElement.id === 'scene-1-down'")
        page.press("Enter")
        page.wait(holds("Scene 2", "Second"))
        page.wait("document.activeElement.id === 'scene-2-down'")
        click(page, "Up", 0)
        page.wait(holds("Scene 1", "Second"))
        click(page, "Duplicate")
        page.wait(f"{has_field('Scene 4')} && {holds('Scene 2', 'Second')}")
        click(page, "Lock", 0)
        page.wait(f"{field('Scene 1, locked')}?.disabled === true")
        click(page, "Unlock")
        page.wait(f"{field('Scene 1')}?.disabled === false")
        click(page, "Remove", 0)
        page.wait(f"!{has_field('Scene 4')}")
        assert page.run(holds("Scene 1", "Second"))
        click(page, "Another take", 0)
        page.wait(f"{has_field('Scene 1, take 1')} && {holds('Scene 1', 'Second')}")
        click(page, "Back to take 0")
        page.wait(f"!{has_field('Scene 1, take 1')}")
        open_settings(page, 0)
        assert fills_the_width(page)
        # Fields of cards that are drawn anew may tell of their end; see Guard.
        assert [error for error in page.errors if " 410 " not in error] == []
