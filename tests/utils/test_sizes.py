import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.utils.sizes import size_text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        *(
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.00 kB"),
            (30_200, "30.2 kB"),
        ),
        *((999_499, "999.5 kB"), (999_999, "1.00 MB"), (1.5e9, "1.50 GB"), (80e9, "80.0 GB")),
        (2e15, "2000.0 TB"),
    ],
)
def test_sizes_are_told_in_the_largest_unit(nbytes, text):
    assert size_text(nbytes) == text


@given(st.integers(0, 10**15))
def test_no_size_is_told_as_nothing_or_far_off(nbytes):
    number, unit = size_text(nbytes).split()
    factor = {"byte": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert abs(float(number) * factor - nbytes) <= 0.006 * nbytes
