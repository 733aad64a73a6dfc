import pytest

from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.webapp.problems import Problem, has_field, read_problems


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("storyboard: scenes[1].prompt: too long", (1, "prompt", "too long")),
        ("storyboard:3: scenes[0].keep: never made: x", (0, "keep", "never made: x")),
        ("storyboard: scenes[2]: found 3", (2, None, "found 3")),
        ("storyboard: steps: found 0, needs 1", (None, "steps", "found 0, needs 1")),
        ("config.sample.steps: found 2000", (None, "steps", "found 2000")),
        (
            "storyboard: sampler: found 'a_b', needs unip_3",
            (None, "sampler", "found 'a_b', needs unip_3"),
        ),
        ("storyboard: frames, storyboard: height: 5 frames of", (None, "frames", "5 frames of")),
        ("storyboard: scenes[0].frames, storyboard: width: 5", (0, "frames", "5")),
        (
            "story-001 is being made already: wait",
            (None, None, "story-001 is being made already: wait"),
        ),
    ],
)
def test_each_problem_has_its_field(line, found):
    assert read_problems(line) == [Problem(*found)]


def test_a_storyboards_problems_are_named_as_the_form_names_its_fields():
    with pytest.raises(StoryboardError) as error:
        Storyboard.from_mapping(
            {"scenes": [{"seed": 1}, {"prompt": "x", "seed": "a"}], "seed": "many"}
        )
    first, second, third = sorted(read_problems(str(error.value)), key=str)
    assert str(first).startswith("Scene 1, prompt: missing") and first.is_missing_prompt
    assert str(second).startswith("Scene 2, seed: found 'a', needs a whole number")
    assert str(third).startswith("seed: found 'many'") and not third.is_missing_prompt


def test_only_what_the_form_has_is_shown_at_a_field():
    assert has_field(Problem(None, "steps", "")) and has_field(Problem(0, "prompt", ""))
    for scene, field in ((0, "keep"), (0, "steps"), (None, "prompt"), (None, None)):
        assert not has_field(Problem(scene, field, ""))
