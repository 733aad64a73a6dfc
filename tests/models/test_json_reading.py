"""All that is wrong with a JSON config comes in one line, before anything is made of it."""

import pytest

from m2dit_jax.models.json_reading import raise_problems, read_json, shown_value
from m2dit_jax.utils.options import Options, option


class _Fields(Options, frozen=True):
    """Two fields, one of which must be there."""

    width: int = option(..., "Features.")
    sizes: tuple[int, ...] = option((1,), "Sizes.")


def test_declared_fields_are_read_and_others_ignored():
    assert read_json("net", _Fields, {"width": 3, "sizes": [1, 2], "more": None}, {}) == {
        "width": 3,
        "sizes": (1, 2),
    }


def test_missing_fields_and_other_variants_are_told_together():
    with pytest.raises(
        ValueError, match="net config: width is missing; bias must be True, got None"
    ):
        read_json("net", _Fields, {"bias": None}, {"bias": True, "act": "silu"})
    with pytest.raises(ValueError, match="net config: width: "):
        read_json("net", _Fields, {"width": "wide"}, {})


def test_no_problems_raise_nothing():
    raise_problems("net", [])
    assert (shown_value(None), shown_value(True)) == ("None", "True")
