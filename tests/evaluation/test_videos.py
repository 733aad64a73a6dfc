"""Scores of real video, from features to the command, on procedural stories."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from m2dit_jax import evaluate
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.evaluation.extractors import (
    ClassicalExtractor,
    open_extractor,
    open_extractors,
)
from m2dit_jax.evaluation.kernel_distance import kernel_distance
from m2dit_jax.evaluation.video_scores import describe_scene, score_all, score_story, slope
from m2dit_jax.evaluation.video_stories import VideoStory, find_stories, read_board
from m2dit_jax.utils.media import write_mp4
from tests.evaluation.networks import save_clip, save_dino

CLASSICAL = ClassicalExtractor()
SOURCE = ShapesSource(0, 3, 4, 32, True, 6)


class TextExtractor:
    """Knows a text as the picture that it names."""

    name = note = "test"
    side = 128

    def __init__(self, pictures):
        self.pictures = pictures

    def of_frames(self, frames):
        return CLASSICAL.of_frames(frames)

    def of_texts(self, texts):
        return np.concatenate([self.of_frames(self.pictures[text][:1]) for text in texts])


def story_of(number, actors=None):
    item = SOURCE[number]
    story = VideoStory(f"s{number}", (), tuple(item["captions"]), actors)
    return story, list(item["video"])


def score(story, videos, extractor=CLASSICAL):
    scenes = [describe_scene(video, extractor) for video in videos]
    return score_story(story, scenes, extractor), scenes


def known(value: float | None) -> float:
    assert value is not None
    return value


def test_features_are_of_length_1_and_tell_scenes_apart():
    video = SOURCE[0]["video"]
    features = CLASSICAL.of_frames(video.reshape(-1, *video.shape[2:]))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1)
    alike = features @ features.T
    assert alike[0, 1] > alike[0, 4] + 0.1
    plain = CLASSICAL.of_frames(np.full((1, 8, 8, 3), 7, np.uint8))
    assert np.isfinite(plain).all()


def test_a_scene_that_comes_again_is_found_and_makes_no_cut():
    story, videos = story_of(0)
    once, _ = score(story, videos)
    again, _ = score(story, [videos[0]] * 3)
    assert once.cuts == [True, True] and again.cuts == [False, False]
    assert again.visual is not None and once.visual is not None and once.visual < again.visual
    assert again.best_match == pytest.approx(1) and known(once.best_match) < 0.95


def test_a_frozen_scene_and_a_cut_within_one_are_found():
    story, videos = story_of(0)
    frozen = np.repeat(videos[1][:1], 4, axis=0)
    cut = np.concatenate([videos[2], videos[0]])
    found, _ = score(story, [videos[0], frozen, cut])
    assert found.frozen == [1] and found.cuts_within == 1
    assert found.motion[1] == 0 < found.motion[0]


def test_drift_has_a_slope():
    story, videos = story_of(0)
    dark = [(videos[0] * share).astype(np.uint8) for share in (1.0, 0.75, 0.5)]
    found, _ = score(story, dark)
    brightness = found.drift["brightness"]
    assert slope(brightness) == pytest.approx((brightness[2] - brightness[0]) / 2, rel=0.1)
    assert slope([3.0]) == 0
    assert found.drift["likeness to scene 1"][0] > found.drift["likeness to scene 1"][2]


def test_scores_stand_between_floor_and_ceiling():
    same = tuple(frozenset(["it"]) for _ in range(3))
    scored = [score(*story_of(number, same)) for number in range(6)]
    scores = score_all([s for s, _ in scored], [scenes for _, scenes in scored])
    for name in ("visual consistency", "same actor consistency", "best frame match"):
        found = scores[name]
        assert known(found.floor) < known(found.value) < known(found.ceiling), name
    cuts = scores["cuts where scenes meet"]
    assert cuts.floor == 0 and cuts.value == 1 and known(cuts.ceiling) > 0.9
    assert scores["semantic alignment"].value is None
    assert "knows no text" in scores["semantic alignment"].note
    assert scores["sequence consistency"].value is None


def test_alone_a_story_has_no_floor():
    found, scenes = score(*story_of(0))
    scores = score_all([found], [scenes])
    assert scores["visual consistency"].floor is None
    assert "needs several stories" in scores["visual consistency"].note
    assert "actors.json" in scores["same actor consistency"].note


def test_prompts_are_matched_with_scenes():
    story, videos = story_of(1)
    extractor = TextExtractor(dict(zip(story.prompts, videos, strict=True)))
    found, scenes = score(story, videos, extractor)
    scores = score_all([found], [scenes])
    assert scores["prompt retrieval"].value == 1
    assert scores["prompt retrieval"].floor == pytest.approx(1 / 3)
    assert known(scores["alignment over other prompts"].value) > 0.1
    swapped, scenes = score(story, [videos[1], videos[0], videos[2]], extractor)
    assert score_all([swapped], [scenes])["prompt retrieval"].value == pytest.approx(1 / 3)
    both = scores["visual consistency"].value, scores["semantic alignment"].value
    assert scores["sequence consistency"].value == pytest.approx(np.mean(both))
    assert "inferred" in scores["sequence consistency"].note


def test_kernel_distance_is_none_between_halves_of_a_set_and_grows_apart():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60, 8))
    near, far = kernel_distance(a, b), kernel_distance(a, b + 2)
    assert near.low < 0 < near.high and (near.n, near.m) == (60, 60)
    assert far.value > 10 * abs(near.value) and far.low > 0
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    # k(x, y) = (xy + 1)^3: within a 1, within b 1, across the mean of 1, 1, 1 and 27.
    assert kernel_distance(x, y).value == pytest.approx(1 + 1 - 2 * 7.5)
    with pytest.raises(ValueError, match="at least 2 vectors on each side, found 1 and 2"):
        kernel_distance(x[:1], y)


@pytest.fixture
def folder(tmp_path):
    """Two scenes and a storyboard."""
    videos = SOURCE[0]["video"]
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in (1, 2):
        write_mp4(clips / f"scene_{number}.mp4", videos[number - 1], 4)
    board = tmp_path / "board.yaml"
    board.write_text("scenes:\n  - prompt: a\n    video: gone.mp4\n  - prompt: b\n")
    return clips, board


def test_stories_are_found_or_named(folder, tmp_path):
    clips, board = folder
    assert read_board(board).prompts == ("a", "b")
    (story,), problems = find_stories(clips, board)
    assert [path.name for path in story.videos] == ["scene_1.mp4", "scene_2.mp4"]
    assert problems == [] and story.actors is None
    (clips / "actors.json").write_text('[["fox"], ["fox", "owl"]]')
    assert find_stories(clips, board)[0][0].same_actor(0, 1)
    (clips / "actors.json").write_text('[["fox"]]')
    with pytest.raises(ValueError, match=r"actors.json: found 1 lists for 2 scenes"):
        find_stories(clips, board)
    with pytest.raises(ValueError, match="found no story, needs a folder that `sample` wrote"):
        find_stories(clips)
    with pytest.raises(ValueError, match="no such folder"):
        find_stories(tmp_path / "nothing")
    board.write_text("scenes:\n  - prompt: a\n")
    with pytest.raises(ValueError, match="found 2 videos for the 1 scenes of"):
        find_stories(clips, board)


@pytest.mark.slow
def test_the_command_writes_scores_and_a_page(folder):
    clips, board = folder
    done = subprocess.run(
        [
            *(sys.executable, "-m", "m2dit_jax.evaluate", f"--videos={clips}"),
            *(f"--storyboard={board}", f"--reference_videos={clips}"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 cuts at 1 meetings of scenes" in done.stdout
    content = json.loads((clips / "video_scores.json").read_text())
    assert content["extractor"] == "classical" and content["kernel_distance"]["n"] == 2
    assert content["stories"][0]["cuts"] == [True]
    page = (clips / "video_scores.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 2  # scores, drift
    assert "http" not in page.replace("http-equiv", "")
    assert 'cuts where scenes meet</th><td dir="auto">1 of 1</td>' in page


def test_a_broken_video_is_named_and_the_command_says_so(folder, capsys):
    clips, board = folder
    (clips / "scene_2.mp4").write_bytes(b"no video")
    assert evaluate.main([f"--videos={clips}", f"--storyboard={board}"]) == 2
    assert "scene_2.mp4: not a readable video" in capsys.readouterr().err


def test_an_extractor_that_is_none_is_refused(tmp_path):
    pytest.importorskip("torch", reason="optional extra: torch")
    with pytest.raises(ValueError, match=r"found no config.json"):
        open_extractor(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="found a 'bert', needs a clip or dinov2"):
        open_extractor(str(tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--dino=.*none: no such folder, needs a folder with DI"):
        open_extractors("classical", dino=tmp_path / "none")
    with pytest.raises(ValueError, match=r"--extractor=.*none: .* needs classical or a folder"):
        open_extractors(str(tmp_path / "none"))


def test_without_torch_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"needs torch, .*\[eval\].*classical needs nothing"):
        open_extractor(str(tmp_path))


def test_networks_from_a_folder(tmp_path):
    pytest.importorskip("torch", reason="optional extra: torch")
    extractor = open_extractor(str(save_dino(tmp_path / "dino", "dinov2")))
    frames = SOURCE[0]["video"][0]
    features = extractor.of_frames(frames)
    assert features.shape == (4, 16) and extractor.of_texts(["a"]) is None
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)

    extractor = open_extractor(str(save_clip(tmp_path / "clip")))
    texts = extractor.of_texts(["a fox", "an owl that is much longer than twelve tokens are"])
    assert (
        texts is not None and texts.shape == (2, 8) and extractor.of_frames(frames).shape == (4, 8)
    )
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)


def test_dino_sees_the_whole_picture(tmp_path):
    pytest.importorskip("torch", reason="optional extra: torch")
    dino = open_extractors("classical", dino=save_dino(tmp_path / "dino", "vit")).dino
    clip = open_extractors("classical", clip=save_clip(tmp_path / "clip")).clip
    assert dino is not None and clip is not None and dino.side == clip.side == 28
    wide = np.zeros((2, 56, 140, 3), np.uint8)
    wide[1, :, :40] = 255  # outside of the middle square
    assert np.abs(np.diff(dino.of_frames(wide), axis=0)).max() > 1e-4
    assert np.abs(np.diff(clip.of_frames(wide), axis=0)).max() == 0


def test_a_main_network_serves_for_its_scores_too(tmp_path):
    pytest.importorskip("torch", reason="optional extra: torch")
    clip, dino = save_clip(tmp_path / "clip"), save_dino(tmp_path / "dino", "vit")
    found = open_extractors(str(clip))
    assert found.clip is found.main is found.of_actors and found.dino is None
    assert open_extractors(str(dino)).dino is not None
    with pytest.raises(ValueError, match=r"--dino=.*clip: found a 'clip', needs a vit or dinov2"):
        open_extractors("classical", dino=clip)
    with pytest.raises(ValueError, match=r"--clip=.*dino: found a 'vit', needs a clip"):
        open_extractors("classical", clip=dino)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--clip=.*empty: found no config.json .* with CLIP"):
        open_extractors("classical", clip=tmp_path / "empty")
    (dino / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="dino: cannot be read as vit"):
        open_extractors("classical", dino=dino)


def test_the_whole_path_on_a_film_with_networks(tmp_path, capsys):
    pytest.importorskip("torch", reason="optional extra: torch")
    videos = SOURCE[0]["video"]
    write_mp4(tmp_path / "film.mp4", np.concatenate(list(videos)), 4)
    prompts = "".join(f"  - {{prompt: scene {number}, frames: 4}}\n" for number in (1, 2, 3))
    (tmp_path / "board.yaml").write_text(f"scenes:\n{prompts}")
    Image.fromarray(videos[0][0]).save(tmp_path / "it.png")
    box = [0.0, 0.0, 0.75, 1.0]
    seen = [{"scene": number, "box": box} for number in (1, 2, 3)]
    actors = {"actors": [{"name": "it", "references": ["it.png"], "seen": seen}]}
    (tmp_path / "actors.json").write_text(json.dumps(actors))
    clip, dino = save_clip(tmp_path / "clip"), save_dino(tmp_path / "dino", "vit")
    flags = [
        *("videos", f"--videos={tmp_path / 'film.mp4'}", f"--storyboard={tmp_path / 'board.yaml'}"),
        *(f"--clip={clip}", f"--dino={dino}", "--cut_tolerance=0.25s"),
        f"--output={tmp_path / 'scores'}",
    ]
    assert evaluate.main(flags) == 0
    said = capsys.readouterr().out
    assert "cuts: 2 matched within 1 frames, 0 missed, 0 too many; on average 0.0" in said
    content = json.loads((tmp_path / "scores/video_scores.json").read_text())
    for name, count in (("subject", 9), ("background", 9)):
        within, between = (
            content["scores"][f"{name} {where}"] for where in ("consistency", "between scenes")
        )
        assert 0 < within["value"] <= 1 and within["n"] == count
        assert 0 < between["value"] <= 1 and between["n"] == 2
    assert content["extractors"] == {
        **{"main": "classical", "subject": "vit, dino", "background": "clip, clip"},
        "actors": "clip, clip",
    }
    (story,) = content["stories"]
    assert story["film_cuts"]["matched"] == [[4, 4], [8, 8]]
    (actor,) = story["actors"]
    assert actor["seen"] == 3 and 0 < actor["cross"] <= 1 and 0 < actor["self_likeness"] <= 1
    assert "actor it" in (tmp_path / "scores/video_scores.html").read_text()


def test_without_networks_the_scores_say_what_they_need(folder, tmp_path, capsys):
    clips, board = folder
    assert evaluate.main([f"--videos={clips}", f"--storyboard={board}"]) == 0
    said = capsys.readouterr().out
    assert "needs --dino: a folder with DINO or DINOv2" in said
    assert "needs --clip: a folder with CLIP" in said
    assert "nobody said where the actors are (boxes in actors.json)" in said
    assert (
        "cuts: precision 100.0" in said
        and "1 matched within 2 frames, 0 missed, 0 too many" in said
    )


def test_a_storyboard_may_ask_for_no_cut(folder, capsys):
    clips, board = folder
    board.write_text("scenes:\n  - prompt: a\n  - prompt: b\n    cut: false\n")
    assert evaluate.main([f"--videos={clips}", f"--storyboard={board}"]) == 0
    said = capsys.readouterr().out
    assert "0 matched within 2 frames, 0 missed, 1 too many" in said
    assert "clips: cuts too many at frame 4" in said


@pytest.mark.parametrize("tolerance", ["-1", "1.5", "s", "nans", "99s", "many"])
def test_a_tolerance_that_is_none_is_refused(folder, tolerance, capsys):
    clips, board = folder
    with pytest.raises(SystemExit):
        evaluate.main(
            [f"--videos={clips}", f"--storyboard={board}", f"--cut_tolerance={tolerance}"]
        )
    assert "--cut_tolerance: found" in capsys.readouterr().err
