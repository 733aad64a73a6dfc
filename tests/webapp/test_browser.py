"""The app in a real browser, by mouse and keys. Tests share an app: its start takes longest."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from m2dit_jax import train
from m2dit_jax.data.shapes import Scene, render_scene
from m2dit_jax.utils.media import write_mp4
from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS
from m2dit_jax.webapp.shelf import Shelf
from tests.browser import find_browser, open_browser

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
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.server import start_server
from m2dit_jax.webapp.shelf import Shelf
from m2dit_jax.utils.media import write_mp4

def make(storyboard, folder, report):
    write_mp4(folder / "scene_1.mp4", np.zeros((2, 16, 16, 3), np.uint8), 4)
    for step in range(1000):
        report(StoryProgress(
            scenes=3, finished=(0,), at_work=(1,), step=step, steps=1000, seconds_left=9.0))
        time.sleep(0.02)

print(start_server(Shelf(Path(sys.argv[1])), Runner(make), "127.0.0.1", None), flush=True)
time.sleep(100)
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


def type_in_every_field(page, count):
    """Asserts that the form has that many fields for text and that each takes some."""
    fields = "[...document.querySelectorAll('label :is(textarea, input:not([type=file]))')]"
    page.wait(f"{fields}.length === {count}")
    for number in range(count):
        page.type(f"{fields}[{number}]", f"x{number}")
    # None was put back by a later one.
    assert page.run(f"{fields}.map(f => f.value)") == [f"x{number}" for number in range(count)]


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
        page.type(field("seed"), "5")
        page.type(field("steps"), "1")
        page.type(field("Scene 1"), "a blue cross moves left on gray")
        page.type(field("Scene 2"), "a purple cross")
        page.attach("input[type=file]", clip)
        page.wait("document.body.innerText.includes('Not given')")
        click(page, "Generate")
        assert "Scene 2, prompt: prompt 'a purple cross' has unknown words" in page.wait(
            "document.querySelector('.problems')?.innerText"
        )
        page.type(field("Scene 2"), "it moves up on navy")
        click(page, "Generate")
        page.wait("document.querySelector('.state.done')", 60)
        page.wait("[...document.querySelectorAll('.story video')].length === 3")
        page.wait("[...document.querySelectorAll('.story video')].every(v => v.readyState >= 2)")
        links = "[...document.querySelectorAll('.downloads a')].map(a => a.download)"
        assert page.run(links) == ["story.mp4", "storyboard.json", "index.html"]
        click(page, "Add a scene")
        page.wait(has_field("Scene 3"))
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


@pytest.fixture(scope="module")
def slow_app(tmp_path_factory):
    """The app with the model that takes long; its address and output folder."""
    output = tmp_path_factory.mktemp("slow") / "out"
    with started([sys.executable, "-c", SLOW, str(output)]) as address:
        yield address, output


@pytest.mark.slow
def test_every_field_of_a_new_story_can_be_typed_in(slow_app):
    with open_browser() as page:
        page.open(slow_app[0])
        page.wait(has_field("Scene 3"))
        click(page, "Settings of the story")
        page.wait(has_field("steps"))
        for number in (1, 2, 3):
            click(page, f"Settings of scene {number}")
        type_in_every_field(page, len(STORY_FIELDS) + 3 * len(SCENE_FIELDS))
        page.type(field("seed"), "many")
        click(page, "Generate")
        told = page.wait("document.querySelector('.problems')?.innerText")
        assert "seed: found 'many'" in told and "Scene 3, seed: found 'x" in told
        assert page.errors == []


def test_every_scene_can_be_typed_in_after_one_is_added(slow_app):
    with open_browser() as page:
        page.open(slow_app[0])
        page.wait(has_field("Scene 3"))
        page.type(field("Scene 1"), "a fox")
        click(page, "Add a scene")
        page.wait(has_field("Scene 4"))
        assert page.run(holds("Scene 1", "a fox"))
        for number in (1, 2, 3, 4):
            click(page, f"Settings of scene {number}")
        type_in_every_field(page, 4 * len(SCENE_FIELDS))
        assert page.errors == []


@pytest.mark.slow
def test_a_story_opened_again_can_be_typed_in(slow_app):
    address, output = slow_app
    story = Shelf(output).new()
    (output / story / "storyboard.json").write_text(
        json.dumps({"seed": 3, "scenes": [{"prompt": "a fox"}, {"prompt": "it runs"}]})
    )
    with open_browser() as page:
        page.open(address)
        page.wait(has_field("Scene 3"))
        click(page, "Settings of the story")
        page.wait(has_field("steps"))
        choose(page, story)
        page.wait(f"{holds('Scene 2', 'it runs')} && {holds('seed', '3')}")
        for number in (1, 2):
            click(page, f"Settings of scene {number}")
        type_in_every_field(page, len(STORY_FIELDS) + 2 * len(SCENE_FIELDS))
        click(page, "New story")
        page.wait(f"{holds('Scene 3', '')} && {holds('seed', '')}")
        choose(page, story)
        page.wait(holds("Scene 2", "it runs"))
        assert page.errors == []


def test_scenes_show_as_they_are_finished_and_a_story_is_cancelled(slow_app):
    with open_browser() as page:
        page.open(slow_app[0])
        page.wait(has_field("Scene 3"))
        for number in (1, 2, 3):
            page.type(field(f"Scene {number}"), "a fox")
        click(page, "Generate")
        page.wait("document.querySelector('.state.running')?.innerText.includes('step')")
        page.wait("document.querySelectorAll('.cards video').length === 1")
        click(page, "Cancel")
        page.wait("document.querySelector('.state.cancelled')")
        page.wait("document.querySelectorAll('.cards video').length === 1")
        assert page.errors == []
