from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.data.video import read_frames
from m2dit_jax.utils.media import read_clip, video_frames
from m2dit_jax.utils.picture import Screen, span
from m2dit_jax.utils.video_file import VideoError
from tests.video_kinds import KINDS, TURNS, Kind, read_patches, shown, write_kind


def differences(path: Path, kind: Kind) -> float:
    """Largest difference from the players' colours, of given clips, training clips and whole."""
    expected = shown(kind)
    (whole,) = list(video_frames(path))[:1]
    a, b, _, _ = TURNS[kind.turn]
    height, width = kind.height, round(kind.width * kind.aspect)
    assert whole.shape[:2] == ((height, width) if a else (width, height))
    size = (48, 64) if a else (64, 48)
    worst = [np.abs(read_patches(whole, expected) - expected).max()]
    pictures = [read_clip(path, 1, *size)[0], read_frames(path, [0], *size)[0]]
    np.testing.assert_array_equal(*pictures)
    # Of the crop the outer patches are partly gone: their inner halves are where the middles are
    inner = whole.shape[:2]
    scale = min(inner[0] / size[0], inner[1] / size[1])
    for picture in pictures:
        for y in range(expected.shape[0]):
            for x in range(expected.shape[1]):
                row, column = (
                    (place + 0.5) * full / count / scale - (full / scale - side) / 2
                    for place, full, count, side in zip(
                        (y, x), inner, expected.shape[:2], size, strict=True
                    )
                )
                if 1 <= row < size[0] - 1 and 1 <= column < size[1] - 1:
                    worst.append(np.abs(picture[int(row), int(column)] - expected[y, x]).max())
    return max(worst)


@pytest.mark.parametrize("name", KINDS)
def test_videos_come_out_as_players_show_them(tmp_path, name):
    kind = KINDS[name]
    path = write_kind(tmp_path / f"clip.{kind.container}", kind)
    assert differences(path, kind) <= tolerance(kind)


def tolerance(kind: Kind) -> int:
    """Levels of 255; the darkest light of PQ is a few levels apart in 10 bits of limited range."""
    return 4 if kind.transfer == 16 else 2


COLOURS = st.sampled_from(
    [(pixels, matrix, full, 1, 1) for matrix in (1, 5, 6, 7) for full in (False, True)
     for pixels in ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le")]
    + [("yuv420p10le", 9, False, transfer, 9) for transfer in (14, 16, 18)]
    + [("gbrp", 0, True, 1, 1)]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    COLOURS,
    st.sampled_from(list(TURNS)),
    st.sampled_from([Fraction(1), Fraction(32, 27), Fraction(8, 9), Fraction(4, 3)]),
    st.sampled_from([(96, 192), (90, 162), (120, 160), (720, 320)]),
    st.sampled_from([Fraction(24), Fraction(30000, 1001), Fraction(60)]),
    st.sampled_from(["mp4", "mov", "mkv", "ts", "avi"]),
    st.booleans(),
)
def test_any_video_of_the_grid_does(tmp_path_factory, colours, turn, aspect, size, rate, end, tags):
    pixels, matrix, full, transfer, primaries = colours
    if end not in ("mp4", "mov"):  # the others keep no display matrix of all forms
        turn = "upright"
    if end in ("ts", "avi"):  # and few of those the shape of pixels, or tags
        aspect = Fraction(1)
    if end == "avi":
        tags = False
    if not tags:  # by the players' rule
        transfer = primaries = 1
        full, matrix = pixels == "gbrp", 0 if pixels == "gbrp" else 1 if size[0] >= 720 else 6
    kind = Kind(pixels, matrix, full, transfer, primaries, tags, turn, aspect, *size, rate, end)
    path = write_kind(tmp_path_factory.mktemp("grid") / f"clip.{end}", kind)
    assert differences(path, kind) <= tolerance(kind), kind


def frame_of(rgba: np.ndarray, pixels: str) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixels)


@pytest.mark.parametrize("pixels", ["rgba", "yuva420p", "yuva444p10le", "gbrap", "rgba64le"])
def test_what_is_transparent_is_black(pixels):
    picture = np.zeros((32, 64, 4), np.uint8)
    picture[:, :32] = (200, 100, 50, 128)
    picture[:, 32:] = (255, 0, 255, 0)  # magenta that nobody is to see
    shown = Screen(Path("clip"), (16, 32)).show(frame_of(picture, pixels))
    np.testing.assert_allclose(shown[:, 4:12], np.full((16, 8, 3), (100, 50, 25)), atol=2)
    assert shown[:, 18:].max() <= 2


def test_interlaced_frames_have_no_combs():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[0::2, 8:24] = 200  # the first field
    picture[1::2, 24:40] = 200  # and the second, a moment later
    graph = av.filter.Graph()
    source = graph.add("buffer", "video_size=64x64:pix_fmt=yuv420p:time_base=1/25")
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")
    graph.push(frame.reformat(format="yuv420p"))
    screen = Screen(Path("clip"))
    frame = graph.pull()
    for _ in range(2):  # every frame for itself
        rows = screen.show(frame)[8:56, :, 0].astype(int)
        assert np.abs(np.diff(rows, axis=0)).max() < 20


def test_colours_that_cannot_be_shown_are_refused_with_what_to_do():
    for tag, number, reason in (
        ("colorspace", 8, r"clip\.mp4: its colour matrix \(number 8 of H.273\) .* ffmpeg -i"),
        ("color_trc", 9, r"clip\.mp4: its transfer \(number 9 of H.273\) .* ffmpeg -i"),
    ):
        frame = av.VideoFrame(64, 48, "yuv420p")
        setattr(frame, tag, number)
        with pytest.raises(VideoError, match=reason):
            Screen(Path("clip.mp4")).show(frame)


@pytest.mark.parametrize(("found", "wanted"), [(1676, 720), (1920, 853), (101, 64), (50, 333)])
def test_crops_are_in_the_middle_to_a_fraction_of_a_pixel(found, wanted):
    ratio = Fraction(found * 7, wanted * 8)
    left = float(found - ratio * wanted) / 2
    place = span(found, wanted, ratio)
    step = place.length / place.resized
    assert place.start % 2 == 0 and 0 <= place.offset <= place.resized - wanted
    assert place.start + place.length <= found
    for edge in (0, wanted):
        error = place.start + (place.offset + edge) * step - (left + float(ratio) * edge)
        assert abs(error) / float(ratio) < (0.03 if found > 1000 else 0.5)


@pytest.mark.parametrize("turn", TURNS)
def test_a_part_is_chosen_in_the_picture_as_players_show_it(tmp_path, turn):
    place = 0.25  # of the 96 or 48 pixels that are left over: even numbers, as chroma goes in pairs
    kind = Kind(turn=turn)
    write_kind(tmp_path / "clip.mp4", kind)
    (whole,) = list(video_frames(tmp_path / "clip.mp4"))[:1]
    height, width = whole.shape[:2]
    for side in (0, 1):  # cut above and below; left and right
        size = (height // 2, width) if side == 0 else (height, width // 2)
        start = int(place * (whole.shape[side] - size[side]))
        part = read_clip(tmp_path / "clip.mp4", 1, *size, place)[0].astype(int)
        wanted = whole.take(range(start, start + size[side]), axis=side).astype(int)
        assert np.abs(part - wanted).mean() < 3


def test_a_sharp_picture_is_in_its_place_at_any_scale():
    ramp = np.zeros((300, 526, 3), np.uint8)
    ramp[:] = np.rint(np.linspace(0, 255, 526))[:, None]
    shown = Screen(Path("clip"), (128, 192)).show(av.VideoFrame.from_ndarray(ramp, format="rgb24"))
    columns = (np.arange(192) + 0.5) * 300 / 128 + (526 - 192 * 300 / 128) / 2 - 0.5
    np.testing.assert_allclose(shown[64, :, 0], columns * 255 / 525, atol=1.2)


def test_scaling_down_by_a_whole_number_averages_whole_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (30, 63, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
    shown = Screen(Path("clip"), (10, 10)).show(frame)
    middle = noise[:, 16:46].reshape(10, 3, 10, 3, 3).mean((1, 3))
    np.testing.assert_allclose(shown, middle, atol=1)
