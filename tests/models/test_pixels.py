import jax.numpy as jnp
import numpy as np

from m2dit_jax.models.pixels import decode_pixels, encode_pixels


def test_every_grey_level_comes_back():
    video = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    latents = encode_pixels(video)
    assert latents.min() == -1 and latents.max() == 1
    np.testing.assert_array_equal(decode_pixels(latents), video)


def test_values_out_of_range_are_clipped():
    latents = jnp.array([-3.0, 0.0, 7.0]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(decode_pixels(latents)[0, 0, 0], [0, 128, 255])
