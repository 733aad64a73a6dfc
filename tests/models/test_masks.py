import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import (
    BY_BLOCK,
    HIDE_GENERATED,
    MASKS,
    STATIC_MASKS,
    block_masks,
    check_global_text,
    depends_on_given,
    given_tokens,
    key_runs,
    looks_at_frames,
    query_groups,
    scene_mask,
    sees_other_video,
    segment_table,
)

TABLES = (*STATIC_MASKS, *HIDE_GENERATED)  # the masks that are one table in all blocks

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
    # t0 t1 t2 a0 bc0 a1 bc1 a2 bc2 p: the first of three frames, and the others
    "first_frame": "1 0 0 1 1 0 0 0 0 0 / 0 1 0 0 0 1 1 0 0 0 / 0 0 1 0 0 0 0 1 1 0 /"
    "1 0 0 1 1 1 0 1 0 0 / 0 1 0 1 0 1 1 1 0 0 / 0 0 1 1 0 1 0 1 1 0 / 0 0 0 0 0 0 0 0 0 1",
    # t0 t1 t2 a0 b0 c0 a1 b1 c1 a2 b2 c2 p
    "every_other_frame": "1 0 0 1 1 1 0 0 0 0 0 0 0 / 0 1 0 0 0 0 1 1 1 0 0 0 0 /"
    "0 0 1 0 0 0 0 0 0 1 1 1 0 /"
    "1 0 0 1 1 1 1 0 1 1 0 1 0 / 0 1 0 1 0 1 1 1 1 1 0 1 0 / 0 0 1 1 0 1 1 0 1 1 1 1 0 /"
    "0 0 0 0 0 0 0 0 0 0 0 0 1",
    # t0 t1 t2 a0 bc0 v1 v2 p
    "opening_frame": "1 0 0 1 1 0 0 0 / 0 1 0 0 0 1 0 0 / 0 0 1 0 0 0 1 0 /"
    "1 0 0 1 1 0 0 0 / 0 1 0 1 0 1 0 0 / 0 0 1 1 0 0 1 0 / 0 0 0 0 0 0 0 1",
}


@pytest.mark.parametrize("mask", TABLES)
def test_the_table_of_segments_is_what_is_drawn(mask):
    layout = Layout(scenes=3, text=4, video=(6, 6, 6), padding=2, frame=2)
    table = segment_table(layout, mask, np.array([True, False, False]))
    assert isinstance(table, np.ndarray)
    np.testing.assert_array_equal(table, picture(DRAWINGS[mask]))


@pytest.mark.parametrize(
    "mask, lengths, segments",
    [
        ("symmetric", (4, 4, 2, 6, 0), (0, 1, 2, 3, 4)),
        ("first_frame", (4, 4, 2, 2, 4, 0), (0, 1, 2, 3, 3, 4)),
        ("every_other_frame", (4, 4, 2, 2, 2, 2, 0), (0, 1, 2, 3, 3, 3, 4)),
        ("opening_frame", (4, 4, 2, 6, 0), (0, 1, 2, 3, 4)),
    ],
)
def test_columns_are_as_long_as_all_see_alike(mask, lengths, segments):
    layout = Layout(scenes=2, text=4, video=(2, 6), frame=2)
    assert key_runs(layout, mask) == (lengths, segments)


def test_masks_of_frames_need_to_know_them():
    assert [mask for mask in MASKS if looks_at_frames(mask)] == [
        "first_frame",
        "every_other_frame",
        "opening_frame",
        "block_diagonal",
    ]
    with pytest.raises(ValueError, match="'first_frame' needs a layout that knows its frames"):
        scene_mask(TWO_SCENES, "first_frame")


def test_the_blocks_of_cinetrans():
    masks = block_masks("block_diagonal", 30)
    assert masks == ("symmetric",) * 6 + ("opening_frame",) * 22 + ("symmetric",) * 2
    assert block_masks("block_diagonal", 3) == ("symmetric", "opening_frame", "opening_frame")
    assert [len(block_masks("block_diagonal", blocks)) for blocks in range(1, 50)] == [
        *range(1, 50)
    ]
    assert block_masks("causal", 2) == ("causal", "causal")
    with pytest.raises(ValueError, match="'block_diagonal' is not the same in all blocks"):
        scene_mask(TWO_SCENES, "block_diagonal")


@pytest.mark.parametrize("mask", BY_BLOCK)
def test_the_tables_of_blocks_exist(mask):
    assert {BY_BLOCK[mask].outer, BY_BLOCK[mask].inner} <= set(TABLES)


def has_global_text(mask: str) -> bool:
    try:
        check_global_text(mask)
    except ValueError:
        return False
    return True


LAYOUTS = [
    Layout(1, 2, 3, frame=1),
    Layout(3, 2, 1, padding=2, frame=1),
    Layout(2, 1, (6, 2), frame=2),
    Layout(40, 1, 3, padding=1, frame=1),
    Layout(4, 2, (0, 1, 4, 3), padding=1, global_text=True, frame=1),
]
LAYOUTS_AND_MASKS = [
    (layout, mask)
    for layout in LAYOUTS
    for mask in TABLES
    if has_global_text(mask) or not layout.global_text
]
STATIC = [(layout, mask) for layout, mask in LAYOUTS_AND_MASKS if not depends_on_given(mask)]


@pytest.mark.parametrize("layout, mask", LAYOUTS_AND_MASKS)
def test_the_mask_of_tokens_repeats_the_table(layout, mask):
    given = np.arange(layout.scenes) % 2 == 0
    table = segment_table(layout, mask, given)
    keys = key_runs(layout, mask).lengths
    repeated = table.repeat(layout.segment_lengths, 0).repeat(keys, 1)
    np.testing.assert_array_equal(scene_mask(layout, mask, given), repeated)
    traced = jax.jit(lambda given: scene_mask(layout, mask, given))(given)
    np.testing.assert_array_equal(traced, repeated)


@pytest.mark.parametrize("layout, mask", LAYOUTS_AND_MASKS)
def test_every_segment_sees_itself(layout, mask):
    given = np.arange(layout.scenes) % 2 == 0
    own = np.array(key_runs(layout, mask).segments) == np.arange(2 * layout.scenes + 1)[:, None]
    assert segment_table(layout, mask, given)[own].all()


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


def test_unknown_mask_is_named():
    with pytest.raises(ValueError, match=f"'diagonal'.*{', '.join(MASKS)}"):
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
