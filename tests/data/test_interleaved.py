from collections import Counter

import pytest

from m2dit_jax.data.interleaved import Interleaved
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.data.worlds import WORLDS


def source(length, actor=""):
    return WORLDS["shapes"].open(0, [(3, 3)], 8, False, length, actor=actor)


@pytest.mark.parametrize(("share", "of_it"), [(0.25, 3), (0.5, 6), (1.0, 12)])
def test_a_share_of_the_stories_is_of_one_source(share, of_it):
    mixed = Interleaved(source(2, "white circle"), source(50), share, 12)
    assert len(mixed) == 12
    colours = [mixed[number].scenes[0].colour == "white" for number in range(12)]
    assert sum(colours) == of_it and colours[-1]
    texts = Counter(tuple(mixed[number].captions) for number in range(12))
    others = [ShapesSource(0, 2, 3, 8, False, 50)[number]["captions"] for number in range(12)]
    assert all(texts[tuple(captions)] == 1 for captions in others[: 12 - of_it])
    assert len(texts) == 2 + 12 - of_it
