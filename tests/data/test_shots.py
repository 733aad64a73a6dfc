import sys
from types import SimpleNamespace

import numpy as np
import pytest

from m2dit_jax.data.manifest import ManifestError, read_manifest, write_jsonl
from m2dit_jax.data.shots import cut_into_shots
from m2dit_jax.data.video import VideoError
from m2dit_jax.utils.media import write_mp4


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "long.mp4"
    write_mp4(path, np.zeros((20, 16, 16, 3), np.uint8), 10)
    return path


@pytest.fixture
def detector(monkeypatch):
    """Stands in for PySceneDetect, which is an optional extra."""
    cuts: list[tuple[float, float]] = []

    def detect(path, _):
        return [(SimpleNamespace(seconds=a), SimpleNamespace(seconds=b)) for a, b in cuts]

    fake = SimpleNamespace(detect=detect, ContentDetector=object)
    monkeypatch.setitem(sys.modules, "scenedetect", fake)
    return cuts


def test_shots_become_a_manifest_that_waits_for_captions(video, detector, tmp_path):
    detector += [(0.0, 0.8), (0.8, 2.0)]
    manifest = cut_into_shots(video, tmp_path)
    (story,) = manifest.stories
    assert [(s.start, s.end, s.caption) for s in story.scenes] == [(0.0, 0.8, ""), (0.8, 2.0, "")]
    write_jsonl(manifest, tmp_path / "shots.jsonl", tmp_path)
    with pytest.raises(ManifestError, match="scene 1: caption: found ''.*\n.*scene 2: caption"):
        read_manifest(tmp_path / "shots.jsonl", tmp_path)


def test_a_video_without_a_cut_is_one_shot(video, detector, tmp_path):
    (scene,) = cut_into_shots(video, tmp_path).stories[0].scenes
    assert (scene.start, scene.end) == (0.0, 2.0)


def test_what_cannot_be_cut(video, detector, tmp_path, monkeypatch):
    with pytest.raises(VideoError, match="is not within the root"):
        cut_into_shots(video, tmp_path / "elsewhere")
    with pytest.raises(VideoError, match="no such file"):
        cut_into_shots(tmp_path / "no.mp4", tmp_path)
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ImportError, match=r"pip install .*\[shots\]"):
        cut_into_shots(video, tmp_path)
