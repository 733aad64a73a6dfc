import jax
import numpy as np
import pytest

from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.diffusion.timesteps import TimestepDraw

SCHEDULE = NoiseSchedule(snr_shift=24.0)
KEY = jax.random.key(0)


def test_by_default_all_timesteps_are_drawn_alike_and_as_ever():
    draw = TimestepDraw()
    np.testing.assert_allclose(draw.probabilities(SCHEDULE), 1 / 1000)
    expected = jax.random.randint(KEY, (16, 1), 0, 1000)
    np.testing.assert_array_equal(draw.draw(KEY, 16, SCHEDULE), expected)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_stratified_batch_has_one_story_in_each_part(share):
    draw = TimestepDraw(share, stratified=True)
    drawn = np.sort(np.asarray(draw.draw(KEY, 10, SCHEDULE))[:, 0])
    ends = np.cumsum(draw.probabilities(SCHEDULE))
    # The stories' places in the distribution, up to the width of a timestep.
    least, most = np.append(0, ends)[drawn], ends[drawn]
    parts = np.arange(10) / 10
    assert (most >= parts - 1e-6).all() and (least <= parts + 0.1 + 1e-6).all()
    assert draw.draw(KEY, 10, SCHEDULE).shape == (10, 1)


def test_log_snr_is_distributed_as_asked():
    draw = TimestepDraw(1.0, log_snr_mean=-1.0, log_snr_std=1.0)
    drawn = np.asarray(draw.draw(KEY, 20_000, SCHEDULE))[:, 0]
    alphas = SCHEDULE.alphas_cumprod()[drawn]
    log_snr = np.log(alphas / (1 - alphas))
    assert log_snr.mean() == pytest.approx(-1, abs=0.05)
    assert log_snr.std() == pytest.approx(1, abs=0.05)


def test_the_other_share_is_uniform():
    draw = TimestepDraw(0.25)
    probabilities = draw.probabilities(SCHEDULE)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[-1] == pytest.approx(0.75 / 1000, rel=1e-3)  # without signal
