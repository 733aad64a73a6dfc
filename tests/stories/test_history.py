import pytest

from m2dit_jax.stories.history import (
    BUILD,
    read_build,
    read_history,
    read_takes,
    write_build,
)
from m2dit_jax.stories.inputs import Identity
from m2dit_jax.utils.files import read_json, write_json


def version(scene, prompt="a", take=0, **more):
    own = {"scene": scene + 1, "prompt": prompt, "frames": 2, "seed": [0, scene], "attempt": 0}
    own |= {"guidance_scale": 1.0, "negative_prompt": ""} | ({"take": take} if take else {})
    return {"model": "m", "height": 4, "width": 4, "scene": scene + 1, "beside": [own], **more}


def test_versions_of_earlier_builds_stay_newest_first(tmp_path):
    first, second, clip = version(0), version(0, take=1), {"clip": "x"}
    write_build(tmp_path, {0: first, 1: clip})
    assert read_json(tmp_path / BUILD).keys() == {"scenes"}  # as older versions wrote it
    write_build(tmp_path, {0: second, 1: version(1)})
    write_build(tmp_path, {0: second})  # a shorter story
    assert read_build(tmp_path) == {0: second}
    assert read_history(tmp_path) == {0: [second, first], 1: [version(1)]}
    write_build(tmp_path, {0: first})  # back again
    assert read_history(tmp_path)[0] == [first, second]


def test_takes_are_those_of_the_prompt_and_the_newest_of_each(tmp_path):
    for inputs in (version(0), version(0, "b"), version(0, take=1), version(0, steps=3)):
        write_build(tmp_path, {0: inputs})
    keys = [Identity.from_inputs(i).key for i in (version(0, steps=3), version(0, take=1))]
    assert read_takes(tmp_path, 0, "a") == dict(enumerate(keys))
    assert list(read_takes(tmp_path, 0, "b")) == [0]
    assert read_takes(tmp_path, 1, "a") == read_takes(tmp_path / "none", 0, "a") == {}


@pytest.mark.parametrize(
    "content",
    [
        *({"scenes": {"1": 3, "x": {}}}, {"scenes": {}, "earlier": 4}),
        *({"scenes": {"1": {"beside": [{}]}}}, {"scenes": {}, "earlier": {"1": [{"beside": 3}]}}),
    ],
)
def test_what_is_no_history_is_none(tmp_path, content):
    write_json(tmp_path / BUILD, content)
    assert not any(read_history(tmp_path).values())
