import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.layout import Layout
from m2dit_jax.parallel.heads import MOST_FILLED, HeadShares, story_devices


@pytest.mark.parametrize(
    ("heads", "devices", "groups", "parts", "local"),
    [
        (30, 1, 1, 1, 30),
        (30, 2, 2, 1, 15),
        (30, 4, 4, 1, 8),  # filled up to 32
        (30, 8, 8, 1, 4),
        (30, 32, 32, 1, 1),
        (48, 16, 16, 1, 3),
        (48, 32, 16, 2, 3),  # not 64: a third of the work would be for nothing
        (48, 64, 16, 4, 3),
        (3, 8, 1, 8, 3),
    ],
)
def test_shares(heads, devices, groups, parts, local):
    shares = HeadShares.of(heads, devices)
    assert (shares.groups, shares.parts, shares.local) == (groups, parts, local)
    assert shares.groups * shares.parts == devices


@pytest.mark.parametrize("heads", [1, 7, 30, 48])
def test_little_is_filled_up_on_any_number_of_devices(heads):
    for devices in range(1, 129):
        assert heads <= HeadShares.of(heads, devices).filled <= (1 + MOST_FILLED) * heads


def test_what_is_filled_up_or_divided_is_told():
    assert str(HeadShares.of(48, 8)) == ""
    assert str(HeadShares.of(30, 8)) == "30 heads filled up to 32"
    assert "3 heads and 1/4 of attention's queries" in str(HeadShares.of(48, 64))


@pytest.mark.parametrize("layout", [Layout(2, 3, 5, padding=2), Layout(3, 2, (0, 5, 3), 1, True)])
def test_parts_of_the_queries_come_back_to_their_places(layout):
    shares = HeadShares(1, 1, 3)
    query = jnp.arange(1.0, layout.tokens + 1).reshape(1, -1, 1, 1)
    own = shares.query_layout(layout)
    parts = [shares.take_part(query, layout, jnp.int32(part)) for part in range(3)]
    assert {part.shape[1] for part in parts} == {own.tokens}
    placed = [shares.place_part(x, layout, jnp.int32(part)) for part, x in enumerate(parts)]
    np.testing.assert_array_equal(sum(placed), query)
    # A part has tokens of the segments that its layout says.
    segments = {int(token): segment for token, segment in enumerate(layout.segments(), 1)}
    for token, segment in zip(np.ravel(parts[1]), own.segments(), strict=True):
        assert token == 0 or segments[int(token)] == segment


def test_heads_come_back_from_the_devices_that_have_them():
    heads = jax.random.normal(jax.random.key(0), (1, 2, 6, 4))
    shares = HeadShares.of(6, 8)
    everywhere = shares.expand(heads)
    assert everywhere.shape[2] == 8 * shares.local
    once = np.zeros(everywhere.shape[2])
    once.reshape(shares.groups, shares.parts, -1)[:, 1] = 1  # one part has the result
    np.testing.assert_allclose(shares.merge(everywhere * once[:, None]), heads)


@pytest.mark.parametrize(("heads", "devices", "used"), [(30, 8, 8), (48, 64, 64), (30, 7, 6)])
def test_a_story_is_on_as_many_devices_as_share_it_well(heads, devices, used):
    assert story_devices(heads, devices) == used
