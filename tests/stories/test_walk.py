import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.stories.gate import Verdict
from m2dit_jax.stories.inputs import Identity
from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.walk import StoryWalk

PICTURE = np.zeros((2, 2, 3), np.uint8)


def groups(references, scenes, windows):
    """The groups in which a story is made whose first scenes are references."""
    window, new_scenes, anchor = windows
    pictures = [{"prompt": "it", "image": PICTURE} for _ in range(references)]
    storyboard = Storyboard(scenes=(*pictures, *[{"prompt": "a"} for _ in range(scenes)]))
    options = StoryOptions(window=window, new_scenes=new_scenes, anchor=anchor)
    digests = ("",) * references + (None,) * scenes
    story = StoryWalk(StoryPlan(storyboard, options, digests, (), ()), "model")
    found = []
    while group := story.next_group():
        found.append(group)
        for scene in group.new:
            story.settle(scene, group, Identity.from_inputs({}), Verdict(), False)
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 3),
    st.integers(1, 9),
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n), st.booleans())),
)
def test_references_are_given_to_all_and_change_no_window(references, scenes, windows):
    plain, found = groups(0, scenes, windows), groups(references, scenes, windows)
    assert [tuple(s - references for s in group.new) for group in found] == [g.new for g in plain]
    for group, other in zip(found, plain, strict=True):
        assert group.context[:references] == tuple(range(references))
        assert tuple(s - references for s in group.context[references:]) == other.context
        assert group.scenes[:references] == tuple(range(references))
