import numpy as np

from m2dit_jax.stories.output import write_scene
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.utils.media import read_clip


def test_a_scene_is_written_in_the_quality_of_the_settings(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    write_scene(tmp_path, 0, frames, StoryOptions(video_quality="lossless"))
    write_scene(tmp_path, 1, frames, StoryOptions())
    np.testing.assert_array_equal(read_clip(tmp_path / "scene_1.mp4", 2, 16, 16), frames)
    assert (read_clip(tmp_path / "scene_2.mp4", 2, 16, 16) != frames).any()
