import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.mask_codes import segment_codes, value_at
from m2dit_jax.models.masks import (
    STATIC_MASKS,
    Pairs,
    check_global_text,
    key_runs,
    scene_mask,
    segment_table,
)

PADDED = Layout(scenes=2, text=1, video=(2, 1), padding=2, frame=1)  # t0 t1 a0 b0 v1 p p
LAYOUTS = [
    Layout(1, 2, 3, frame=1),
    Layout(3, 2, 1, padding=2, frame=1),
    Layout(2, 1, (6, 2), frame=2),
    Layout(40, 1, 3, padding=1, frame=1),
]
WITH_GLOBAL = Layout(4, 2, (0, 1, 4, 3), padding=1, global_text=True, frame=1)


@pytest.mark.parametrize("mask", STATIC_MASKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_tell_what_the_table_says(layout, mask):
    codes = segment_codes(layout, mask)
    told = codes.sees(np.array(codes.queries)[:, None], np.array(codes.keys))
    np.testing.assert_array_equal(told[:-1, :-1], segment_table(layout, mask))
    np.testing.assert_array_equal(told[-1], [False] * (told.shape[1] - 1) + [True])
    np.testing.assert_array_equal(told[:, -1], [False] * (len(told) - 1) + [True])


@pytest.mark.parametrize("mask", STATIC_MASKS)
def test_codes_of_global_text(mask):
    try:
        check_global_text(mask)
    except ValueError:
        return
    test_codes_tell_what_the_table_says(WITH_GLOBAL, mask)


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
        test_codes_tell_what_the_table_says(Layout(4, 1, 1, frame=1), mask)


def allowed(rows, columns, layout, mask):
    """The mask at any positions, as a kernel finds it by codes."""
    codes = segment_codes(layout, mask)
    queries = value_at(rows, layout.segment_lengths, codes.queries)
    return codes.sees(queries, value_at(columns, key_runs(layout, mask).lengths, codes.keys))


@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_rule_at_traced_positions_gives_those_rows_of_the_mask(variant):
    rows = np.array([6, 0, 3])
    columns = jnp.arange(PADDED.tokens)

    @jax.jit
    def some_rows(rows):
        return allowed(rows[:, None], columns[None, :], PADDED, variant)

    expected = np.asarray(scene_mask(PADDED, variant))[rows]
    np.testing.assert_array_equal(some_rows(rows), expected)


@pytest.mark.parametrize("variant", STATIC_MASKS)
def test_positions_beyond_the_sequence_see_only_each_other(variant):
    end = PADDED.tokens
    positions = jnp.arange(end + 2)
    mask = np.asarray(allowed(positions[:, None], positions[None, :], PADDED, variant))
    np.testing.assert_array_equal(mask[:end, :end], scene_mask(PADDED, variant))
    assert mask[end:, end:].all()
    assert not mask[:end, end:].any() and not mask[end:, :end].any()
