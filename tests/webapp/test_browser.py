"""The app in a real browser, with a small checkpoint. All in one: the start takes longest."""

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
from tests.browser import find_browser, open_browser

ROOT = Path(__file__).parent.parent.parent
TINY = [
    *("--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"),
    *("--config.model.time_dim=16", "--config.train.batch_size=2", "--config.train.eval_every=0"),
    *("--config.train.steps=1", "--config.train.warmup_steps=0", "--config.sample.steps=2"),
]


@pytest.fixture(scope="module", autouse=True)
def needs_browser_and_gradio():
    pytest.importorskip("gradio", reason="optional extra: gradio, see requirements-app.txt")
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
    command = [sys.executable, "-m", "m2dit_jax.webapp"]
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
from types import SimpleNamespace
import numpy as np
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.server import start_server
from m2dit_jax.webapp.shelf import Shelf
from m2dit_jax.utils.media import write_mp4

def make(storyboard, folder, report):
    write_mp4(folder / "scene_1.mp4", np.zeros((2, 16, 16, 3), np.uint8), 4)
    for step in range(1000):
        report(SimpleNamespace(
            scenes=3, finished=(0,), at_work=(1,), step=step, steps=1000, seconds_left=9.0))
        time.sleep(0.02)

print(start_server(Shelf(Path(sys.argv[1])), Runner(make), "127.0.0.1", None)[0], flush=True)
time.sleep(100)
"""


def fill(page, label, text):
    """As typing does: the page's framework watches for the event."""
    page.run(
        f"""(() => {{
        const label = [...document.querySelectorAll('label')].find(
            l => l.textContent.trim().startsWith('{label}'));
        const field = label.querySelector('textarea, input');
        field.value = {text!r};
        field.dispatchEvent(new Event('input', {{bubbles: true}}));
        }})()"""
    )


def click(page, text, number=0):
    buttons = "[...document.querySelectorAll('button')]"
    page.run(f"{buttons}.filter(b => b.textContent.trim() === '{text}')[{number}].click()")


def has_field(label):
    return f"[...document.querySelectorAll('label')].some(l => l.textContent.includes('{label}'))"


def status(address, path):
    try:
        with urllib.request.urlopen(f"{address}gradio_api/file={path}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_story_is_made_from_the_form_and_its_files_alone_are_served(app, checkpoint, tmp_path):
    address, output = app
    clip = tmp_path / "my_clip.mp4"
    write_mp4(clip, render_scene(Scene("cross", "blue", "gray", "left"), 4, 32), 4)
    with open_browser() as page:
        page.open(address)
        page.wait(has_field("Scene 3"))
        click(page, "Remove", 2)
        page.wait(f"!{has_field('Scene 3')}")
        fill(page, "Scene 1", "a blue cross moves left on gray")
        fill(page, "Scene 2", "a purple cross")
        page.attach("input[type=file]", clip)
        page.wait("document.body.innerText.includes('Not given')")
        click(page, "Generate")
        assert "Scene 2, prompt: prompt 'a purple cross' has unknown words" in page.wait(
            "document.querySelector('.problems')?.innerText"
        )
        fill(page, "Scene 2", "it moves up on navy")
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
    assert status(address, folder / "story.json") == 200
    for path in (
        *("/etc/passwd", "%2Fetc%2Fpasswd", f"{folder}/../../../run/metrics.jsonl", "README.md"),
        *(checkpoint / "metrics.jsonl", clip, f"{address}config"),
    ):
        assert status(address, path) == 403, path


def test_scenes_show_as_they_are_finished_and_a_story_is_cancelled(tmp_path):
    with (
        started([sys.executable, "-c", SLOW, str(tmp_path / "out")]) as address,
        open_browser() as page,
    ):
        page.open(address)
        page.wait(has_field("Scene 3"))
        for number in (1, 2, 3):
            fill(page, f"Scene {number}", "a fox")
        click(page, "Generate")
        page.wait("document.querySelector('.state.running')?.innerText.includes('step')")
        page.wait("document.querySelectorAll('.cards video').length === 1")
        click(page, "Cancel")
        page.wait("document.querySelector('.state.cancelled')")
        page.wait("document.querySelectorAll('.cards video').length === 1")
        assert page.errors == []
