import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import STATIC_MASKS, allowed, scene_mask

TWO_SCENES = Layout(scenes=2, text=1, video=1)  # t0 t1 v0 v1


def test_text_sees_only_its_own_scene_and_video_sees_all_video():
    np.testing.assert_array_equal(
        scene_mask(TWO_SCENES),
        np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]], bool),
    )


def test_independent_scenes_do_not_see_each_other():
    np.testing.assert_array_equal(
        scene_mask(TWO_SCENES, "independent"),
        np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]], bool),
    )


def test_full_sees_everything():
    assert np.all(scene_mask(TWO_SCENES, "full"))


def test_unequal_text_and_video_counts():
    mask = np.asarray(scene_mask(Layout(scenes=2, text=2, video=1)))  # t0 t0 t1 t1 v0 v1
    np.testing.assert_array_equal(
        mask,
        np.array(
            [
                [1, 1, 0, 0, 1, 0],
                [1, 1, 0, 0, 1, 0],
                [0, 0, 1, 1, 0, 1],
                [0, 0, 1, 1, 0, 1],
                [1, 1, 0, 0, 1, 1],
                [0, 0, 1, 1, 1, 1],
            ],
            bool,
        ),
    )


UNEQUAL_PADDED = Layout(scenes=2, text=1, video=(2, 1), padding=2)  # t0 t1 v0 v0 v1 p p


def test_padding_and_unequal_scenes():
    np.testing.assert_array_equal(
        scene_mask(UNEQUAL_PADDED, "symmetric"),
        np.array(
            [
                [1, 0, 1, 1, 0, 0, 0],
                [0, 1, 0, 0, 1, 0, 0],
                [1, 0, 1, 1, 1, 0, 0],
                [1, 0, 1, 1, 1, 0, 0],
                [0, 1, 1, 1, 1, 0, 0],
                [0, 0, 0, 0, 0, 1, 1],
                [0, 0, 0, 0, 0, 1, 1],
            ],
            bool,
        ),
    )
    np.testing.assert_array_equal(
        scene_mask(UNEQUAL_PADDED, "independent"),
        np.array(
            [
                [1, 0, 1, 1, 0, 0, 0],
                [0, 1, 0, 0, 1, 0, 0],
                [1, 0, 1, 1, 0, 0, 0],
                [1, 0, 1, 1, 0, 0, 0],
                [0, 1, 0, 0, 1, 0, 0],
                [0, 0, 0, 0, 0, 1, 1],
                [0, 0, 0, 0, 0, 1, 1],
            ],
            bool,
        ),
    )
    np.testing.assert_array_equal(
        scene_mask(UNEQUAL_PADDED, "full"),
        np.array([[1] * 5 + [0] * 2] * 5 + [[0] * 5 + [1] * 2] * 2, bool),
    )


def test_under_the_causal_mask_given_scenes_do_not_see_generated_ones():
    layout = Layout(scenes=2, text=1, video=1, padding=1)  # t0 t1 v0 v1 p
    np.testing.assert_array_equal(
        scene_mask(layout, "causal", np.array([True, False])),
        np.array(
            [
                [1, 0, 1, 0, 0],
                [0, 1, 0, 1, 0],
                [1, 0, 1, 0, 0],
                [0, 1, 1, 1, 0],
                [0, 0, 0, 0, 1],
            ],
            bool,
        ),
    )


@pytest.mark.parametrize("given", [False, True])
def test_with_none_or_all_given_causal_is_symmetric(given):
    causal = scene_mask(UNEQUAL_PADDED, "causal", np.full(2, given))
    np.testing.assert_array_equal(causal, scene_mask(UNEQUAL_PADDED, "symmetric"))


def test_causal_must_be_told_what_is_given():
    with pytest.raises(ValueError, match="'causal' needs to know which scenes are `given`"):
        scene_mask(TWO_SCENES, "causal")


@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_rule_at_traced_positions_gives_those_rows_of_the_mask(variant):
    rows = np.array([6, 0, 3])
    columns = jnp.arange(UNEQUAL_PADDED.tokens)

    @jax.jit
    def some_rows(rows):
        return allowed(rows[:, None], columns[None, :], UNEQUAL_PADDED, variant)

    expected = np.asarray(scene_mask(UNEQUAL_PADDED, variant))[rows]
    np.testing.assert_array_equal(some_rows(rows), expected)


@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_positions_beyond_the_sequence_see_only_each_other(variant):
    end = UNEQUAL_PADDED.tokens
    positions = jnp.arange(end + 2)
    mask = np.asarray(allowed(positions[:, None], positions[None, :], UNEQUAL_PADDED, variant))
    np.testing.assert_array_equal(mask[:end, :end], scene_mask(UNEQUAL_PADDED, variant))
    assert mask[end:, end:].all()
    assert not mask[:end, end:].any() and not mask[end:, :end].any()


def test_unknown_mask_is_named():
    with pytest.raises(ValueError, match="'diagonal'.*symmetric, full, independent, causal"):
        scene_mask(TWO_SCENES, "diagonal")


# g0 t1 t2 v1 v2 p: the text of "scene" 0 is that of all.
WITH_GLOBAL = Layout(scenes=3, text=1, video=(0, 1, 1), padding=1, global_text=True)


def test_global_text_and_all_video_see_each_other():
    expected = [
        [1, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 0, 1, 0, 1, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(scene_mask(WITH_GLOBAL), np.array(expected, bool))
    positions = jnp.arange(6)
    seen = allowed(positions[:, None], positions[None, :], WITH_GLOBAL, "symmetric")
    np.testing.assert_array_equal(seen, np.array(expected, bool))


def test_under_the_causal_mask_global_text_is_given():
    given = np.array([True, True, False])
    np.testing.assert_array_equal(
        scene_mask(WITH_GLOBAL, "causal", given),
        np.array(
            [
                [1, 0, 0, 1, 0, 0],
                [0, 1, 0, 1, 0, 0],
                [0, 0, 1, 0, 1, 0],
                [1, 1, 0, 1, 0, 0],
                [1, 0, 1, 1, 1, 0],
                [0, 0, 0, 0, 0, 1],
            ],
            bool,
        ),
    )


def test_independent_scenes_have_no_global_text():
    with pytest.raises(ValueError, match="'independent'.*there can be no global prompt"):
        scene_mask(WITH_GLOBAL, "independent")
