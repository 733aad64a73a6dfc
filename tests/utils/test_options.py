"""Every number among the options has a range, and nothing outside it gets in."""

import math

import pytest

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.utils.options import OptionError, declared, problem_lines

NUMBERS = [
    pytest.param(model, name, id=f"{model.__name__}.{name}")
    for model in (StoryOptions, Scene)
    for name, field in declared(model).items()
    if field.kind in (int, float)
]
OTHERS = {Scene: {"prompt": "a"}, StoryOptions: {}}


def test_there_are_numbers_to_check():
    assert len(NUMBERS) > 15


@pytest.mark.parametrize(("model", "name"), NUMBERS)
@pytest.mark.parametrize(
    "value", [-1, -1e300, 10**30, 2**63, 1e300, math.nan, math.inf, True, "1", [1], {}, "\0", b"1"]
)
def test_no_number_is_without_bounds(model, name, value):
    with pytest.raises(OptionError, match=f"^{name}: found .*, needs .*, from .* to "):
        model(**OTHERS[model], **{name: value})


@pytest.mark.parametrize(("model", "name"), NUMBERS)
def test_the_greatest_value_is_allowed_and_no_greater(model, name):
    most = float(declared(model)[name].needed.split(" to ")[1].split(",")[0])
    most = int(most) if declared(model)[name].kind is int else most
    others = OTHERS[model] | ({"video": "a.mp4"} if name == "crop" else {})
    assert getattr(model(**others, **{name: most}), name) == most
    with pytest.raises(OptionError):
        model(**others, **{name: most + 1})


def test_a_seed_that_would_be_another_is_refused():
    with pytest.raises(OptionError, match="seed: found 4294967296, needs a whole number, from 0"):
        Storyboard(scenes=[Scene(prompt="a")], seed=2**32)


def test_problems_are_counted_from_the_fifty_first_on():
    assert problem_lines(map(str, range(3))) == "0\n1\n2"
    lines = problem_lines(map(str, range(60))).splitlines()
    assert lines[49:] == ["49", "... and 10 more problems"]
