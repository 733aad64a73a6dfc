import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.stories.windows import Group, Windows, next_group


def all_groups(scenes, known, windows):
    pending, known, groups = set(range(scenes)) - set(known), set(known), []
    while pending:
        group = next_group(sorted(pending), sorted(known), windows)
        groups.append(group)
        pending -= set(group.new)
        known |= set(group.new)
    return groups


def test_a_story_that_fits_is_made_as_one():
    assert all_groups(3, [], Windows(3, 1, True)) == [Group((0, 1, 2), ())]
    assert all_groups(3, [1], Windows(3, 1, True)) == [Group((0, 2), (1,))]


def test_the_window_slides_with_the_latest_scenes_given():
    assert all_groups(6, [], Windows(3, 1, False)) == [
        *(Group((0, 1, 2), ()), Group((3,), (1, 2)), Group((4,), (2, 3)), Group((5,), (3, 4)))
    ]


def test_the_anchor_is_the_first_scene():
    assert all_groups(6, [], Windows(3, 1, True)) == [
        *(Group((0, 1, 2), ()), Group((3,), (0, 2)), Group((4,), (0, 3)), Group((5,), (0, 4)))
    ]


def test_with_one_given_scene_there_is_no_room_for_an_anchor():
    assert all_groups(5, [], Windows(3, 2, True)) == [*(Group((0, 1, 2), ()), Group((3, 4), (2,)))]


def test_gaps_are_filled_with_what_stands_on_both_sides():
    assert all_groups(5, [0, 3, 4], Windows(3, 1, False)) == [
        *(Group((1,), (0, 3)), Group((2,), (1, 3)))
    ]


def test_far_scenes_are_not_made_together():
    groups = all_groups(12, [*range(0, 4), *range(5, 11)], Windows(3, 2, False))
    assert groups == [Group((4,), (3, 5)), Group((11,), (9, 10))]


def test_without_given_scenes_groups_stand_alone():
    assert all_groups(4, [], Windows(2, 2, True)) == [Group((0, 1), ()), Group((2, 3), ())]


@given(st.data())
def test_every_scene_is_made_once_within_the_window(data):
    window = data.draw(st.integers(1, 5))
    windows = Windows(window, data.draw(st.integers(1, window)), data.draw(st.booleans()))
    scenes = data.draw(st.integers(1, 14))
    known = data.draw(st.sets(st.integers(0, scenes - 1)))
    groups = all_groups(scenes, known, windows)
    made = [scene for group in groups for scene in group.new]
    assert sorted(made) == sorted(set(range(scenes)) - known)
    before = set(known)
    for group in groups:
        assert 1 <= len(group.scenes) <= window
        assert set(group.context) <= before
        assert len(group.context) >= min(len(before), window - len(group.new))
        before |= set(group.new)


@pytest.mark.parametrize("new_scenes", [0, 4])
def test_impossible_windows_are_refused(new_scenes):
    with pytest.raises(ValueError, match=f"new_scenes {new_scenes} cannot be with a window of 3"):
        next_group([0], [], Windows(3, new_scenes, False))


def test_a_group_takes_no_time_by_the_length_of_the_story():
    # As many scenes as nobody could look at one by one.
    pending, known = range(10**12, 10**12 + 10**9), range(10**12)
    group = next_group(pending, known, Windows(4, 2, True))
    assert group == Group((10**12, 10**12 + 1), (0, 10**12 - 1))
