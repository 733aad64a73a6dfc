import jax.numpy as jnp
import numpy as np

from m2dit_jax.tools.parity.layout import (
    channels_first,
    channels_last,
    from_scenes,
    text_from_scenes,
    text_to_scenes,
    to_scenes,
)


def counted(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_latents_there_and_back():
    latents = counted(2, 6, 4, 3, 5)  # b f c h w of 3 scenes
    ours = to_scenes(latents, 3)
    assert ours.shape == (2, 3, 2, 3, 5, 4)
    # Sample 1, scene 2, its frame 1: the sixth frame.
    np.testing.assert_array_equal(ours[1, 2, 1], latents[1, 5].transpose(1, 2, 0))
    np.testing.assert_array_equal(from_scenes(ours), latents)


def test_text_there_and_back():
    text = counted(2, 12, 4)
    ours = text_to_scenes(text, 3)
    assert ours.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(ours[1, 2, 3], text[1, 11])
    np.testing.assert_array_equal(ours[0, 1, 0], text[0, 4])
    np.testing.assert_array_equal(text_from_scenes(ours), text)


def test_videos_there_and_back():
    video = counted(2, 3, 5, 4, 6)  # b c f h w
    ours = channels_last(video)
    assert ours.shape == (2, 5, 4, 6, 3)
    assert ours[1, 4, 3, 2, 0] == video[1, 0, 4, 3, 2]
    np.testing.assert_array_equal(channels_first(jnp.asarray(ours)), video)
