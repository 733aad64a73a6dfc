"""Which size a story goes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.data.encode.sizes import Size, best_size, crop_loss, read_sizes

WIDE, TALL, SQUARE = Size(480, 720), Size(720, 480), Size(480, 480)
sides = st.integers(1, 4000)


def test_each_video_goes_where_it_loses_least():
    sizes = (WIDE, TALL, SQUARE)
    for video, wanted in {
        Size(1080, 1920): WIDE,
        Size(1920, 1080): TALL,
        Size(100, 110): SQUARE,
        Size(500, 650): WIDE,  # of 1.3, which 1.5 cuts less of than 1
    }.items():
        assert sizes[best_size([video], sizes)] == wanted
    # Of a story all scenes count.
    assert sizes[best_size([Size(1920, 1080), *[Size(1080, 1920)] * 2], sizes)] == WIDE


def test_of_the_same_shape_the_largest_that_enlarges_nothing():
    sizes = (Size(480, 720), Size(240, 360), Size(960, 1440))
    assert best_size([Size(500, 750)], sizes) == 0
    assert best_size([Size(2000, 3000)], sizes) == 2
    assert best_size([Size(20, 30)], sizes) == 1


@given(sides, sides, sides, sides)
def test_the_loss_is_what_the_crop_cuts_off(height, width, new_height, new_width):
    video, size = Size(height, width), Size(new_height, new_width)
    scale = max(new_height / height, new_width / width)
    kept = new_height * new_width / (scale * height * scale * width)
    assert crop_loss(video, size) == pytest.approx(1 - kept)
    assert 0 <= crop_loss(video, size) < 1


def test_sizes_are_read():
    assert read_sizes("480x720, 720x480") == (WIDE, TALL)
    for text in ("", "480", "0x3", "480x720,", "480x720,480x720", "1x9999999"):
        with pytest.raises(ValueError, match="needs"):
            read_sizes(text)
