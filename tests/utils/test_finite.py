import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.utils.errors import NotFinite, WorkFailed
from m2dit_jax.utils.finite import check_finite, count_not_finite, is_finite

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nan_are_counted(dtype):
    values = np.array([0, -0.0, 1.5, np.inf, -np.inf, np.nan, -np.nan, 6e4], dtype)
    assert count_not_finite(values) == 4
    assert count_not_finite(values.reshape(2, 4).T) == 4
    assert count_not_finite(values[:3]) == 0


@settings(deadline=None)
@given(st.integers(0, 2**16 - 1), st.sampled_from([np.float16, ml_dtypes.bfloat16]))
def test_all_bits_are_told_as_numpy_tells_them(bits, dtype):
    values = np.array([bits], np.uint16).view(dtype)
    assert count_not_finite(values) == int(not np.isfinite(values.astype(np.float32))[0])


def test_the_last_of_many_values_is_looked_at():
    values = np.zeros(2**19 + 3, np.float32)
    values[-1] = np.nan
    assert count_not_finite(values) == 1


def test_whole_numbers_and_nothing_are_finite():
    assert count_not_finite(np.arange(5)) == 0
    assert is_finite(np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_the_message_names_the_array_and_how_many(make):
    check_finite("latents", make(np.zeros(4, np.float32)))
    with pytest.raises(NotFinite, match=r"^latents: 2 of 4 values are not finite") as error:
        check_finite("latents", make(np.array([0, np.nan, np.inf, 1], np.float32)))
    assert isinstance(error.value, WorkFailed)  # exit status 1
