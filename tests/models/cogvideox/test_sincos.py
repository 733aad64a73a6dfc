import numpy as np
import pytest

from m2dit_jax.models.cogvideox.sincos import sincos_table, stretched_sincos_table


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


def test_positions_are_divided_by_the_scales():
    table = sincos_table((2, 2, 1), 16, spatial_scale=2.0, temporal_scale=4.0)
    np.testing.assert_allclose(table[:, 0], np.sin([0, 0, 0.25, 0.25]), atol=1e-6)
    np.testing.assert_allclose(table[:, 10], np.sin([0, 0.5, 0, 0.5]), atol=1e-6)


def test_time_is_stretched_over_the_scenes():
    # Two frames become four, with half-pixel centres: 0 (held), 1/4, 3/4 and 1 (held).
    table = stretched_sincos_table((2, 1, 1), 2, (2, 1, 1), 16, 1.0, 1.0)
    assert table.shape == (2, 2, 16)
    np.testing.assert_allclose(table[0, :, 0], np.sin(1) * np.array([0, 0.25]), atol=1e-6)
    np.testing.assert_allclose(table[1, :, 0], np.sin(1) * np.array([0.75, 1]), atol=1e-6)
    # The cosines, too, are interpolated between 1 and cos(1), and not cosines of 1/4 and 3/4.
    np.testing.assert_allclose(table[0, 1, 2], 0.75 + 0.25 * np.cos(1), atol=1e-6)


def test_scenes_of_fewer_frames_take_consecutive_pieces_from_the_start():
    whole = stretched_sincos_table((3, 1, 2), 2, (3, 1, 2), 16, 1.0, 1.0).reshape(6, 2, 16)
    short = stretched_sincos_table((3, 1, 2), 2, (2, 1, 2), 16, 1.0, 1.0).reshape(4, 2, 16)
    np.testing.assert_array_equal(short, whole[:4])


def test_rows_and_columns_are_stretched_to_the_grid():
    # Rows 0 and 1 to three: 0 (held), 1/2, 1 (held). Columns stay.
    table = stretched_sincos_table((1, 2, 2), 1, (1, 3, 2), 16, 1.0, 1.0)[0]
    np.testing.assert_allclose(table[::2, 10], np.sin(1) * np.array([0, 0.5, 1]), atol=1e-6)
    np.testing.assert_allclose(table[:2, 4], np.sin([0, 1]), atol=1e-6)


def test_one_scene_of_the_base_grid_has_its_table():
    np.testing.assert_array_equal(
        stretched_sincos_table((3, 2, 4), 1, (3, 2, 4), 32, 1.875, 1.0)[0],
        sincos_table((3, 2, 4), 32, 1.875),
    )


def test_more_frames_than_the_base_are_refused():
    with pytest.raises(ValueError, match="reach for 2 latent frames per scene, got 3"):
        stretched_sincos_table((2, 1, 1), 4, (3, 1, 1), 16, 1.0, 1.0)
