import numpy as np
import pytest

from m2dit_jax.data.shapes import SHAPES, Scene, ShapesSource, render_scene
from m2dit_jax.evaluation.fidelity import FIDELITY, measure_fidelity, psnr, score_fidelity

GRAY = Scene("square", "green", "gray", "right")


def real_scenes(frames=3, size=16, stories=20):
    source = ShapesSource(3, 3, frames, size, True, stories)
    return np.stack([source[i]["video"] for i in range(stories)])


def inwards(videos, sigma):
    """Noise of exactly this mean square that never leaves 0..255, as nothing is cut off then."""
    noise = np.abs(np.random.default_rng(0).normal(0, sigma, videos.shape))
    return np.rint(videos + np.where(videos >= 128, -noise, noise)).astype(np.uint8)


@pytest.mark.parametrize(("frames", "size"), [(3, 16), (2, 24)])
def test_real_scenes_have_no_deviation_and_the_highest_psnr(frames, size):
    fidelity = measure_fidelity(real_scenes(frames, size))
    assert fidelity.psnr.shape == (20, 3)
    np.testing.assert_array_equal(fidelity.psnr, 60)
    np.testing.assert_array_equal(fidelity.background_rms, 0)
    np.testing.assert_array_equal(fidelity.actor_rms, 0)


@pytest.mark.parametrize("sigma", [3, 10, 20])
def test_noise_is_found_as_it_was_added(sigma):
    scores = score_fidelity(measure_fidelity(inwards(real_scenes(), sigma)))
    assert tuple(scores) == FIDELITY
    # The best place takes up a little of the noise, and pixels are rounded.
    assert scores["psnr"].value == pytest.approx(20 * np.log10(255 / sigma), abs=0.12)
    assert scores["background_rms"].value == pytest.approx(sigma, rel=0.03)
    assert scores["actor_rms"].value == pytest.approx(sigma, rel=0.03)
    assert all(score.n == 60 for score in scores.values())


def test_noise_in_the_background_alone_is_told_from_the_actors():
    video = render_scene(GRAY, 3, 16)
    noisy = np.where(video == 128, video + 6, video).astype(np.uint8)
    fidelity = measure_fidelity(noisy[None])
    assert fidelity.background_rms == pytest.approx([6]) and fidelity.actor_rms == pytest.approx(
        [0]
    )


def test_a_colour_beside_the_palettes_is_a_deviation():
    video = render_scene(GRAY, 3, 16)
    green = (video == [0, 255, 0]).all(-1)
    video[green] = [40, 255, 0]
    fidelity = measure_fidelity(video[None])
    np.testing.assert_allclose(fidelity.actor_rms, [40 / np.sqrt(3)])
    np.testing.assert_allclose(fidelity.background_rms, [0])
    share = green.mean()
    np.testing.assert_allclose(
        fidelity.psnr, [20 * np.log10(255 / (40 * np.sqrt(share / 3)))], atol=0.05
    )


def test_soft_edges_cost_psnr_but_no_flatness():
    video = render_scene(GRAY, 3, 16).astype(float)
    padded = np.pad(video, [(0, 0), (0, 0), (1, 1), (0, 0)], mode="edge")
    soft = np.rint(0.8 * video + 0.1 * (padded[:, :, :-2] + padded[:, :, 2:])).astype(np.uint8)
    fidelity = measure_fidelity(soft[None])
    assert fidelity.background_rms == [0] and fidelity.actor_rms == [0]
    assert 20 < fidelity.psnr[0] < 40


def test_what_is_no_scene_scores_low():
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16, 3)).astype(np.uint8)
    assert (measure_fidelity(noise).psnr < 10).all()
    blank = np.zeros((1, 3, 16, 16, 3), np.uint8)
    fidelity = measure_fidelity(blank)
    assert fidelity.psnr < 15 and fidelity.background_rms == [0] and fidelity.actor_rms > 100


@pytest.mark.parametrize("shape", SHAPES)
def test_portions_change_nothing(shape, monkeypatch):
    from m2dit_jax.evaluation import fidelity

    scene = Scene(shape, "red", "black", "left")
    videos = inwards(np.stack([render_scene(scene, 2, 16, (j, 0.0)) for j in (-0.5, 0.0, 0.5)]), 10)
    whole = measure_fidelity(videos)
    monkeypatch.setattr(fidelity, "_PORTION", 1)
    for one, other in zip(whole, measure_fidelity(videos), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_where_no_pixel_is_within_the_actor_there_is_no_case():
    scene = Scene("cross", "red", "black", "left")
    scores = score_fidelity(measure_fidelity(render_scene(scene, 2, 8)[None]))
    assert scores["actor_rms"].n == 0 and scores["background_rms"].n == 1


def test_psnr_of_a_single_step_in_every_value():
    clips = np.full((2, 3, 4, 4, 3), 100, np.uint8)
    made = np.stack([clips[0] + 1, clips[1] + 51]).astype(np.uint8)
    np.testing.assert_allclose(psnr(made, clips), [48.130804, 13.979400], rtol=1e-6)
