import numpy as np
import pytest

from m2dit_jax.evaluation.accuracy import StoryBatch
from m2dit_jax.evaluation.sampling_cost import cost_of


def batch(evaluations, latents, given=((True, False),)):
    stories = len(given)
    return StoryBatch(
        stories=((),) * stories,
        video=np.zeros((stories, 2, 1, 1, 1, 3), np.uint8),
        given=np.array(given),
        latents=np.broadcast_to(np.float32(latents), (stories, 2, 1, 1, 1, 3)).copy(),
        evaluations=np.array(evaluations),
    )


def test_the_cost_of_a_full_run_is_its_own():
    cost = cost_of([batch([[2], [2]], 1.0), batch([[2], [2]], 1.0)])
    assert (cost.evaluations, cost.full_evaluations) == (4, 4)
    assert cost.skipped == (0, 0) and cost.error is None
    assert "error" not in cost.to_text()


def test_what_was_saved_and_what_it_changed():
    made = batch([[2, 2], [0, 1]], 2.0, [[True, False]] * 2)
    full = batch([[2, 2]] * 2, 2.5, [[True, False]] * 2)
    made.latents[:, 0] = 77  # given: whatever stands there is no error
    cost = cost_of([made], [full])
    assert (cost.evaluations, cost.full_evaluations) == (2.5, 4)
    assert cost.skipped == (0, 0.5)
    assert cost.error == pytest.approx(0.2)
    assert cost.to_text() == (
        "2.5 of 4.0 evaluations per story, 0.5 of 2 steps left out, "
        "relative error of the latents 0.2000"
    )


def test_other_stories_are_refused():
    one = batch([[2]], 1.0)
    with pytest.raises(ValueError, match="got 1 and 2 batches"):
        cost_of([one], [one, one])
