import numpy as np
import pytest

from m2dit_jax.model.sincos import sincos_table


def test_table_by_hand():
    table = sincos_table((2, 2, 1), dim=16)  # 4 of time, 6 of width, 6 of height
    # Tokens (frame, row): (0,0) (0,1) (1,0) (1,1).
    np.testing.assert_allclose(table[:, 0], [0, 0, np.sin(1), np.sin(1)], rtol=1e-6)
    np.testing.assert_allclose(table[:, 1], [0, 0, np.sin(0.01), np.sin(0.01)], rtol=1e-6)
    np.testing.assert_array_equal(table[:, 4:7], 0)  # one column only
    np.testing.assert_array_equal(table[:, 7:10], 1)
    np.testing.assert_allclose(table[:, 10], [0, np.sin(1), 0, np.sin(1)], rtol=1e-6)


def test_every_place_has_features_of_its_own():
    table = sincos_table((9, 4, 4), dim=32)
    distances = np.linalg.norm(np.asarray(table[:, None] - table[None]), axis=-1)
    assert np.min(distances + 10 * np.eye(len(table))) > 0.1


def test_width_must_be_shared_evenly():
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        sincos_table((1, 1, 1), 24)
