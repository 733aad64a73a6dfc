"""A clip and a picture for tests of the app."""

import numpy as np
from PIL import Image

from m2dit_jax.utils.media import write_mp4


def clip_in(folder, name="clip.mp4"):
    """The path of a small video in a folder."""
    write_mp4(folder / name, np.zeros((3, 16, 16, 3), np.uint8), 4)
    return folder / name


def picture_in(folder, name="picture.png", height=16, width=16):
    """The path of a small picture in a folder."""
    Image.new("RGB", (width, height), "navy").save(folder / name)
    return folder / name
