import numpy as np
import pytest

from m2dit_jax.evaluation.frame_consistency import (
    between_scenes,
    consistency_scores,
    frame_consistency,
)

# Unit vectors in the plane at 0, 60, 90 and 180 degrees.
EAST, SLANTED = np.array([1.0, 0.0]), np.array([0.5, 3**0.5 / 2])
NORTH, WEST = np.array([0.0, 1.0]), np.array([-1.0, 0.0])


def test_the_formula_by_hand():
    # Frame 2: with the first and the one before 0.5. Frame 3: 0 with the first, cos 30 with the one
    # before. Frame 4: -1 with the first, which counts as 0, and 0 with the one before.
    found = frame_consistency(np.stack([EAST, SLANTED, NORTH, WEST]))
    np.testing.assert_allclose(found, [0.5, 3**0.5 / 4, 0], atol=1e-12)
    np.testing.assert_allclose(frame_consistency(np.stack([EAST] * 4)), 1)
    with pytest.raises(ValueError, match="at least 2 frames, found 1"):
        frame_consistency(EAST[None])


def test_between_scenes_the_first_frames_count():
    scenes = [np.stack(scene) for scene in ([EAST, WEST], [SLANTED, EAST], [NORTH, NORTH])]
    np.testing.assert_allclose(between_scenes(scenes), [0.5, 3**0.5 / 4])
    assert len(between_scenes(scenes[:1])) == 0


def test_scores_of_two_stories_by_hand():
    one = [np.stack([EAST, EAST, SLANTED]), np.stack([NORTH, NORTH])]
    two = [np.stack([SLANTED, SLANTED])]
    scores = consistency_scores("subject", [one, two], "missing")
    within, between = scores["subject consistency"], scores["subject between scenes"]
    assert within.value == pytest.approx((1 + 0.5 + 1 + 1) / 4) and within.n == 4
    # Of first frames: east with slanted, north with slanted.
    assert within.floor == between.floor == pytest.approx((0.5 + 3**0.5 / 2) / 2)
    assert within.ceiling == 1 and between.ceiling == within.value
    assert between.value == 0 and between.n == 1


def test_what_is_missing_is_said():
    none = consistency_scores("subject", [[], []], "needs --dino")
    assert {score.value for score in none.values()} == {None}
    assert {score.note for score in none.values()} == {"needs --dino"}
    alone = consistency_scores("subject", [[np.stack([EAST, EAST])]], "")
    assert alone["subject between scenes"].note == "needs several scenes"
    assert alone["subject consistency"].note == "no floor: needs several stories"
