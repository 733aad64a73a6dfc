import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import (
    MASKS,
    STATIC_MASKS,
    Pairs,
    check_global_text,
    depends_on_given,
    given_tokens,
    query_groups,
    scene_mask,
    sees_other_video,
    segment_codes,
    segment_table,
    value_at,
)

TWO_SCENES = Layout(scenes=2, text=1, video=1)  # t0 t1 v0 v1


def picture(drawing: str) -> np.ndarray:
    """A table drawn as rows of 0 and 1."""
    return np.array([[int(entry) for entry in row.split()] for row in drawing.split("/")], bool)


# The segments t0 t1 t2 v0 v1 v2 p; under the causal mask scene 0 is given.
DRAWINGS = {
    "symmetric": "1 0 0 1 0 0 0 / 0 1 0 0 1 0 0 / 0 0 1 0 0 1 0 /"
    "1 0 0 1 1 1 0 / 0 1 0 1 1 1 0 / 0 0 1 1 1 1 0 / 0 0 0 0 0 0 1",
    "full": "1 1 1 1 1 1 0 / 1 1 1 1 1 1 0 / 1 1 1 1 1 1 0 /"
    "1 1 1 1 1 1 0 / 1 1 1 1 1 1 0 / 1 1 1 1 1 1 0 / 0 0 0 0 0 0 1",
    "independent": "1 0 0 1 0 0 0 / 0 1 0 0 1 0 0 / 0 0 1 0 0 1 0 /"
    "1 0 0 1 0 0 0 / 0 1 0 0 1 0 0 / 0 0 1 0 0 1 0 / 0 0 0 0 0 0 1",
    "causal": "1 0 0 1 0 0 0 / 0 1 0 0 1 0 0 / 0 0 1 0 0 1 0 /"
    "1 0 0 1 0 0 0 / 0 1 0 1 1 1 0 / 0 0 1 1 1 1 0 / 0 0 0 0 0 0 1",
}


@pytest.mark.parametrize("mask", MASKS)
def test_the_table_of_segments_is_what_is_drawn(mask):
    layout = Layout(scenes=3, text=4, video=(5, 6, 7), padding=2)
    table = segment_table(layout, mask, np.array([True, False, False]))
    assert isinstance(table, np.ndarray)
    np.testing.assert_array_equal(table, picture(DRAWINGS[mask]))


def has_global_text(mask: str) -> bool:
    try:
        check_global_text(mask)
    except ValueError:
        return False
    return True


LAYOUTS = [
    Layout(1, 2, 3),
    Layout(3, 2, 1, padding=2),
    Layout(2, 1, (3, 1)),
    Layout(40, 1, 1, padding=1),
    Layout(4, 2, (0, 1, 2, 1), padding=1, global_text=True),
]
LAYOUTS_AND_MASKS = [
    (layout, mask)
    for layout in LAYOUTS
    for mask in MASKS
    if has_global_text(mask) or not layout.global_text
]
STATIC = [(layout, mask) for layout, mask in LAYOUTS_AND_MASKS if not depends_on_given(mask)]


@pytest.mark.parametrize("layout, mask", LAYOUTS_AND_MASKS)
def test_the_mask_of_tokens_repeats_the_table(layout, mask):
    given = np.arange(layout.scenes) % 2 == 0
    table = segment_table(layout, mask, given)
    repeated = table.repeat(layout.segment_lengths, 0).repeat(layout.segment_lengths, 1)
    np.testing.assert_array_equal(scene_mask(layout, mask, given), repeated)
    traced = jax.jit(lambda given: scene_mask(layout, mask, given))(given)
    np.testing.assert_array_equal(traced, repeated)


@pytest.mark.parametrize("layout, mask", LAYOUTS_AND_MASKS)
def test_every_segment_sees_itself(layout, mask):
    given = np.arange(layout.scenes) % 2 == 0
    assert np.diag(segment_table(layout, mask, given)).all()


@pytest.mark.parametrize("layout, mask", STATIC)
def test_groups_are_the_rows_of_the_table(layout, mask):
    table = segment_table(layout, mask)
    again = np.zeros_like(table)
    groups = query_groups(table)
    for group in groups:
        again[np.ix_(group.queries, group.keys)] = True
    np.testing.assert_array_equal(again, table)
    assert sorted(row for group in groups for row in group.queries) == [*range(len(table))]
    assert len({group.keys for group in groups}) == len(groups)


@pytest.mark.parametrize("layout, mask", STATIC)
def test_codes_tell_what_the_table_says(layout, mask):
    codes = segment_codes(layout, mask)
    told = codes.sees(np.array(codes.queries)[:, None], np.array(codes.keys))
    np.testing.assert_array_equal(told[:-1, :-1], segment_table(layout, mask))
    np.testing.assert_array_equal(told[-1], [False] * (len(told) - 1) + [True])
    np.testing.assert_array_equal(told[:, -1], [False] * (len(told) - 1) + [True])


def test_masks_that_no_code_was_made_for(monkeypatch):
    """Neighbours only; text that does not see its own video."""
    near = np.abs(np.subtract.outer([*range(4)] * 2 + [9], [*range(4)] * 2 + [9])) < 2

    def neighbours(pairs: Pairs) -> np.ndarray:
        return pairs.same_scene | (pairs.both_video & near)

    def blind_text(pairs: Pairs) -> np.ndarray:
        return np.eye(len(near), dtype=bool) | pairs.both_video

    tables = {"neighbours": neighbours, "blind_text": blind_text}
    monkeypatch.setattr("m2dit_jax.models.masks.TABLES", tables)
    monkeypatch.setattr("m2dit_jax.models.masks.MASKS", tuple(tables))
    for mask in tables:
        test_codes_tell_what_the_table_says(Layout(4, 1, 1), mask)


def test_scenes_elsewhere_are_seen_as_those_here_are():
    text, video, padding = [False] * 2, [True] * 2, [False]
    seen = sees_other_video(TWO_SCENES, "symmetric")
    np.testing.assert_array_equal(seen, text + video + padding)
    assert not sees_other_video(TWO_SCENES, "independent").any()


def test_padding_is_of_no_given_scene():
    given = jnp.array([[False, True], [True, True]])
    np.testing.assert_array_equal(
        given_tokens(UNEQUAL_PADDED, given),
        [[0, 1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0]],
    )


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


def allowed(rows, columns, layout, mask):
    """The mask at any positions, as a kernel finds it by codes."""
    codes = segment_codes(layout, mask)
    return codes.sees(value_at(rows, layout, codes.queries), value_at(columns, layout, codes.keys))


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
