import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from m2dit_jax.data.shapes import Scene, render_scene
from m2dit_jax.page import main
from m2dit_jax.report.comparison import _verdict
from m2dit_jax.report.record import RecordError, read_record
from m2dit_jax.report.story import write_page
from m2dit_jax.utils.media import write_mp4
from tests.browser import open_browser

PROMPTS = ["a red cross moves left on gray", "it moves up on navy", "it moves <b>down</b> & out"]
FULL = {
    "status": "generated",
    **{"seed": 11, "guidance_scale": 3.5, "negative_prompt": "blur", "frames": 3},
    **{"context": [1], "made_with": [3], "seconds": 75.0, "steps": 20, "evaluations": 31},
    "metrics": {"motion": 3.125, "cut": 12.0},
    "attempts": [
        {"seed": 7, "passed": False, "failures": ["frozen: 0.02"], "metrics": {"motion": 0.02}},
        {"seed": 11, "passed": True, "failures": [], "metrics": {"motion": 3.125}},
    ],
}


def make_story(folder: Path, second=None, **storyboard) -> Path:
    """A folder as `sample` wrote it before there were pages, plus `second` in scene 2."""
    folder.mkdir()
    videos = [render_scene(Scene("cross", "red", "gray", "left"), 3, 16) for _ in PROMPTS]
    scenes = []
    for number, (prompt, video) in enumerate(zip(PROMPTS, videos, strict=True), 1):
        write_mp4(folder / f"scene_{number}.mp4", video, 4)
        scenes.append({"prompt": prompt, "given": number == 1, "video": f"scene_{number}.mp4"})
    scenes[1] |= second or {}
    write_mp4(folder / "story.mp4", np.concatenate(videos), 4)
    scene_settings = [{"prompt": prompt} for prompt in PROMPTS]
    scene_settings[0]["video"] = "/home/someone/secret/cross.mp4"
    story = {"storyboard": {"scenes": scene_settings, "seed": 3, **storyboard}, "scenes": scenes}
    (folder / "story.json").write_text(json.dumps(story))
    return folder


def change(folder: Path, edit) -> Path:
    story = json.loads((folder / "story.json").read_text())
    edit(story)
    (folder / "story.json").write_text(json.dumps(story))
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return make_story(tmp_path_factory.mktemp("stories") / "old")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return make_story(tmp_path_factory.mktemp("stories") / "full", FULL, guidance_scale=2.0)


def text_of(page: Path) -> str:
    """What stands on the page, without markup and data."""
    html = page.read_text()
    body = html[html.index("<body>") : html.index("<script>")]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_all_that_is_known_of_a_scene_stands_on_the_page(full):
    text = text_of(write_page(full))
    for part in (
        *("Story of 3 scenes", "1 given, 2 generated", "a red cross moves left on gray"),
        *("seed 11 guidance scale 3.5 negative prompt blur frames 3 steps 20 was given scene 1",),
        *("made together with scene 3 time 1 min 15 s evaluations 31",),
        *("2 attempts seed 7: frozen: 0.02 (motion 0.02) seed 11: passed (motion 3.125)",),
        *("measured motion 3.125 cut 12", "clip cross.mp4"),
    ):
        assert part in text
    assert "secret" not in text


def test_an_older_story_shows_with_the_settings_of_its_storyboard(old):
    text = text_of(write_page(old))
    assert "All scenes seed 3 Scene 1" in text  # once for all
    assert text.count("seed 3") == 2 and "Settings of the story seed 3" in text
    assert "attempt" not in text and "measured" not in text


def test_the_page_holds_all_it_needs_and_lets_no_text_become_markup(full):
    html = write_page(full).read_text()
    assert html.count("data:video/mp4;base64,") == 4
    assert "it moves &lt;b&gt;down&lt;/b&gt; &amp; out" in html and "<b>" not in html
    assert not re.search(
        r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", html).replace("// ", "")
    )
    assert "default-src 'none'" in html


def test_scenes_start_where_their_frames_do(full):
    starts = re.findall(r'data-from="([0-9.]+)" data-to="([0-9.]+)"', write_page(full).read_text())
    np.testing.assert_allclose(
        np.array(starts, float), [[0, 1 / 3], [1 / 3, 2 / 3], [2 / 3, 1]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("scenes"), "scenes: found 'None', needs a list"),
        (lambda s: s.update(scenes=[]), "scenes: found an empty list, needs at least one scene"),
        (lambda s: s["scenes"][1].update(video="../old.mp4"), r"scenes\[1\]\.video: found '\.\./"),
        (lambda s: s["scenes"][1].update(video="/etc/passwd"), r"scenes\[1\]\.video: found '/etc"),
        (lambda s: s["scenes"][1].update(video="scene_9.mp4"), "needs the name of a video in"),
        (lambda s: s["scenes"][2].update(seed="x", metrics=3), r"scenes\[2\]\.metrics: found '3'"),
        (lambda s: s["scenes"][2].update(status="new"), "status: found 'new', needs one of"),
    ],
)
def test_a_story_that_is_not_as_it_should_be_is_refused_by_field(tmp_path, edit, message):
    with pytest.raises(RecordError, match=message):
        read_record(change(make_story(tmp_path / "story"), edit))


def test_a_folder_without_a_story_is_named_and_nothing_written(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path}/story.json: no such file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_several_stories_stand_side_by_side_and_what_differs_is_marked(old, full, tmp_path, capsys):
    target = tmp_path / "both.html"
    assert main([str(old), str(full), f"--output={target}"]) == 0
    assert re.fullmatch(rf"{target}: 2 stories, [\d.]+ kB\n", capsys.readouterr().out)
    rows = re.findall(
        r"<tr( class=differs)?><th scope=\"row\">(.*?)</th>(.*?)</tr>", target.read_text()
    )
    second = {
        name: bool(mark) for mark, name, cells in rows if ">blur<" in cells or ">11<" in cells
    }
    assert second == {"seed": True, "negative prompt": True}
    assert {bool(mark) for mark, name, _ in rows if name == "prompt"} == {False}
    assert target.read_text().count("data:video/mp4") == 8


@pytest.mark.parametrize(
    ("digests", "verdict", "marked"),
    [
        ("abc", "All scenes are the same.", []),
        ("abz", "Scene 3 differs, the others are the same.", ["3"]),
        ("xyc", "Scenes 1 and 2 differ, the other one is the same.", ["1", "2"]),
        ("xyz", "All scenes differ.", ["1", "2", "3"]),
    ],
)
def test_the_page_of_two_says_which_scenes_differ_by_their_frames(
    old, tmp_path, digests, verdict, marked
):
    def with_digests(digests, **others):
        def edit(story):
            for scene, digest in zip(story["scenes"], digests, strict=True):
                scene["frames_sha256"] = digest
            story["scenes"][1] |= others

        return edit

    one, two = tmp_path / "one", tmp_path / "two"
    change(make_story(one), with_digests("abc", made_with=[3]))
    take = {"take": 1} if "y" in digests else {}
    change(make_story(two), with_digests(digests, status="reused", made_with=[1], **take))
    assert main([str(one), str(two), f"--output={tmp_path / 'both.html'}"]) == 0
    settings = "Settings that differ: take of scene 2." if take else "All settings are the same."
    assert f"{verdict} {settings}" in text_of(tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text()
    assert re.findall(r'class="first differs" id="scene-(\d)"', html) == marked
    rows = re.findall(r"class=differs><th scope=\"row\">(.*?)</th>", html)
    # Never how an equal one came about.
    assert rows == (["take", "made together with"] if "2" in marked else [])


def test_many_scenes_that_differ_are_told_in_spans():
    assert _verdict([n in (2, *range(7, 13)) for n in range(1, 15)]) == (
        "Scenes 2 and 7 to 12 differ, the others are the same."
    )
    assert _verdict([True, False, True, False, False, True, True]).startswith("Scenes 1, 3, 6 and")


def test_a_storyboard_may_be_saved_without_the_folders_of_this_machine(full):
    html = write_page(full).read_text()
    (uri,) = re.findall(r'download="full_storyboard.json" href="data:.*?base64,(.*?)"', html)
    storyboard = json.loads(base64.b64decode(uri))
    assert storyboard["seed"] == 3 and storyboard["scenes"][0]["video"] == "cross.mp4"
    assert [scene["prompt"] for scene in storyboard["scenes"]] == PROMPTS


def test_stories_of_different_length_and_same_name_fit_one_page(full, tmp_path):
    (tmp_path / "other").mkdir()
    short = make_story(tmp_path / "other" / "full")
    change(short, lambda story: story["scenes"].pop())
    assert main([str(full), str(short), f"--output={tmp_path / 'both.html'}"]) == 0
    text = text_of(tmp_path / "both.html")
    assert "no such scene" in text and "other/full" in text
    assert "Scene 3 differs" in text


def test_in_a_browser_scenes_are_jumped_to_by_key_and_nothing_is_loaded_or_wrong(full):
    with open_browser() as page:
        page.open(write_page(full).as_uri())
        page.wait("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
        assert page.run("story.duration") == pytest.approx(9 / 4, abs=0.01)
        page.run("document.querySelectorAll('.strip button')[1].focus()")
        page.press("Enter")
        page.wait("now.textContent === 'Scene 2: it moves up on navy'")
        assert page.run("story.currentTime") == pytest.approx(3.5 / 4, abs=0.01)
        saved = page.run(
            "[...document.querySelectorAll('.downloads a')].map(a => [a.href, a.hidden])"
        )
        assert saved[0] == [page.run("story.src"), False] and len(saved) == 2
        page.size(360, 700)
        assert page.run("document.documentElement.scrollWidth") <= 360
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith("data:")] == [
            (full / "index.html").as_uri()
        ]


def test_in_a_browser_players_side_by_side_move_together(old, full, tmp_path):
    target = tmp_path / "both.html"
    assert main([str(old), str(full), f"--output={target}"]) == 0
    times = "[...document.querySelectorAll('[data-group=story]')].map(v => v.currentTime)"
    with open_browser() as page:
        page.open(target.as_uri())
        page.wait("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
        page.size(390, 800)
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.run("document.querySelector('.wide').scrollWidth") <= 390
        page.run("document.querySelector('[data-group=story]').currentTime = 1.5")
        page.wait(f"{times}.every(t => t === 1.5)")
        page.run("document.getElementById('play-all').click()")
        page.wait("[...document.querySelectorAll('video')].every(v => !v.paused)")
        page.run("document.getElementById('play-all').click()")
        page.wait("[...document.querySelectorAll('video')].every(v => v.paused)")
        assert page.errors == []
