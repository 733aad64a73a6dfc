"""A clip for tests of the app."""

import numpy as np

from m2dit_jax.utils.media import write_mp4


def clip_in(folder, name="clip.mp4"):
    """The path of a small video in a folder."""
    write_mp4(folder / name, np.zeros((3, 16, 16, 3), np.uint8), 4)
    return folder / name
