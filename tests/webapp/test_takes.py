import numpy as np

from m2dit_jax.stories.history import read_takes, write_build
from m2dit_jax.stories.output import SCENES
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.utils.media import read_clip
from m2dit_jax.webapp.takes import take_videos
from tests.stories.test_history import version


def test_takes_of_a_scene_are_videos_and_a_single_one_is_none(tmp_path):
    store = SceneStore(tmp_path / SCENES)
    for inputs in (version(0), version(0, take=1), version(0, take=2)):
        write_build(tmp_path, {0: inputs, 1: version(1, "b")})
    keys = read_takes(tmp_path, 0, "a")
    for take in (0, 2):  # the frames of 1 are lost
        store.put_frames(keys[take], np.full((2, 16, 16, 3), 100 * take, np.uint8), "pixels")
    videos = take_videos(tmp_path, ["a", "b", "c"], 4)
    assert list(videos) == [0] and list(videos[0]) == [0, 2]
    assert abs(read_clip(videos[0][2], 2, 16, 16).mean() - 200) < 3
    times = [path.stat().st_mtime_ns for path in videos[0].values()]
    again = take_videos(tmp_path, ["a"], 4)
    assert again == videos and [p.stat().st_mtime_ns for p in again[0].values()] == times
    assert take_videos(tmp_path, ["another prompt"], 4) == {}
