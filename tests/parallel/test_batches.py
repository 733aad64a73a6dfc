import numpy as np
import pytest

from m2dit_jax.parallel.batches import local_rows, on_mesh, rows_to_read
from m2dit_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_a_batch_comes_back_as_it_was_put(sizes, on_eight_devices):
    on_eight_devices(_check_round_trip, sizes)


def _check_round_trip(sizes):
    mesh = make_mesh(dict(zip(("data", "fsdp", "context"), sizes, strict=True)))
    rows = rows_to_read(mesh, 8)
    assert rows == list(range(8))
    batch = {"video": np.arange(24).reshape(8, 3), "ids": np.arange(8)}
    put = on_mesh(batch, rows, 8, mesh)
    for name, array in put.items():
        assert array.shape == batch[name].shape
        np.testing.assert_array_equal(np.asarray(array), batch[name])
        np.testing.assert_array_equal(local_rows(array), batch[name])
