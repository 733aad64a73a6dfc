import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.stories.yaml import MAX_FILE_BYTES, StoryboardError
from m2dit_jax.utils.media import write_mp4

ONE_SCENE = "scenes:\n  - prompt: a fox\n"


@pytest.fixture
def read(tmp_path):
    """Reads the text as a file story.yaml that has a clip fox.mp4 beside it."""
    write_mp4(tmp_path / "fox.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8)

    def read(text: str | bytes) -> Storyboard:
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / "story.yaml").write_bytes(data)
        return Storyboard.read(tmp_path / "story.yaml")

    return read


@pytest.fixture
def problems(read, tmp_path):
    """The lines of the error, with the folder cut off."""

    def problems(text: str | bytes) -> list[str]:
        with pytest.raises(StoryboardError) as error:
            read(text)
        return str(error.value).replace(f"{tmp_path}/", "").splitlines()

    return problems


def test_reads_every_field(read, tmp_path):
    storyboard = read("""
seed: 7
steps: 20
guidance_scale: 6
negative_prompt: blurry
fps: 7.5
scenes:
  - prompt: A fox wakes.
    video: fox.mp4
  - prompt: >
      The fox runs
      home.
""")
    assert storyboard == Storyboard(
        scenes=(
            Scene(prompt="A fox wakes.", video=tmp_path / "fox.mp4"),
            Scene(prompt="The fox runs home."),
        ),
        seed=7,
        steps=20,
        guidance_scale=6.0,
        negative_prompt="blurry",
        fps=7.5,
    )
    assert storyboard.given == (True, False)


def test_what_is_left_out_or_null_is_the_default(read):
    expected = Storyboard(scenes=[Scene(prompt="a fox")])
    assert read(ONE_SCENE) == expected
    assert read(ONE_SCENE + "    video:\nseed: null\nsteps: ~\nfps:\nnegative_prompt:") == expected


def test_reads_json_with_tabs_escapes_and_exponents(read):
    text = '{\n\t"scenes":\t[{"prompt":"\\u00e9\\/\\ud83e\\udd8a \\"x\\""}],\n\t"fps": 1e1\n}'
    storyboard = read(text)
    assert storyboard.scenes[0].prompt == json.loads(text)["scenes"][0]["prompt"] == 'é/🦊 "x"'
    assert storyboard.fps == 10


def test_unquoted_values_follow_yaml_1_2(read):
    storyboard = read("seed: 010\nscenes: [{prompt: yes}, {prompt: 'true'}, {prompt: 12:30}]")
    assert storyboard.seed == 10
    assert [scene.prompt for scene in storyboard.scenes] == ["yes", "true", "12:30"]


def test_all_problems_are_reported_with_their_lines(problems):
    assert problems("""seed: -1
steps: true
guidence_scale: 3
fps: .nan
negative_prompt: [blurry]
scenes:
  - prompt: ""
  - prompt: 12
    vdeo: fox.mp4
  - video: no.mp4
  - a fox
  - prompt: a fox
    prompt: a hen
""") == [
        "story.yaml:1: seed: found -1, needs a whole number, from 0 to 4294967295",
        "story.yaml:2: steps: found true, needs a whole number, from 1 to 100000",
        "story.yaml:3: unknown key 'guidence_scale', did you mean 'guidance_scale'?",
        "story.yaml:4: fps: found nan, needs a finite number, from 0.1 to 240",
        "story.yaml:5: negative_prompt: found a list of 1, "
        "needs text; put quotes around it if it is meant as text",
        "story.yaml:7: scenes[0].prompt: found '', needs a text that says what the scene shows",
        "story.yaml:8: scenes[1].prompt: found 12, "
        "needs text; put quotes around it if it is meant as text",
        "story.yaml:9: scenes[1]: unknown key 'vdeo', did you mean 'video'?",
        "story.yaml:10: scenes[2].prompt: missing, needs a text that says what the scene shows",
        "story.yaml:10: scenes[2].video: found 'no.mp4', "
        "needs the path of a readable video (no.mp4: no such file)",
        "story.yaml:13: scenes[4].prompt: given twice, first on line 12, needs one value",
    ]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("seed", "4294967296", "found 4294967296, needs a whole number, from 0 to 4294967295"),
        ("seed", "'7'", "found '7', needs a whole number, from 0 to 4294967295"),
        ("seed", "9" * 100, "found a number of very many digits, needs a whole number, from 0 to"),
        ("steps", "0", "found 0, needs a whole number, from 1 to 100000"),
        ("steps", "2.0", "found 2.0, needs a whole number, from 1 to 100000"),
        ("guidance_scale", "-0.5", "found -0.5, needs a finite number, from 0 to 1000"),
        ("guidance_scale", "1e999", "found inf, needs a finite number, from 0 to 1000"),
        ("guidance_scale", "9" * 400, "found a number of very many digits, needs a finite number"),
        ("guidance_scale", "true", "found true, needs a finite number, from 0 to 1000"),
        ("guidance_scale", "{a: 1}", "found a mapping of 1, needs a finite number, from 0 to 1000"),
        ("fps", "0", "found 0, needs a finite number, from 0.1 to 240"),
        ("fps", "-Infinity", "found -inf, needs a finite number, from 0.1 to 240"),
        ("fps", "fast", "found 'fast', needs a finite number, from 0.1 to 240"),
        ("negative_prompt", r'"\uD83E"', r"needs text; one half of a \uD800-\uDFFF pair is miss"),
    ],
)
def test_bad_values(problems, field, value, problem):
    (found,) = problems(f"{ONE_SCENE}{field}: {value}")
    assert found.startswith(f"story.yaml:3: {field}: found ")
    assert problem in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "",
            "story.yaml:1: found nothing, needs a mapping with the keys scenes, sampler, ",
        ),
        ("- prompt: a", "story.yaml:1: found a list of 1, needs a mapping with the keys scenes"),
        ("seed: 1", "story.yaml:1: scenes: missing, needs a list of scenes, each with a prompt"),
        ("\nscenes: []", "story.yaml:2: scenes: found a list of 0, needs a list of scenes"),
        ("\nscenes: fox", "story.yaml:2: scenes: found 'fox', needs a list of scenes, each"),
        ("a: 1\n b: [", "story.yaml:2: not YAML or JSON: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", "story.yaml:2: not YAML or JSON: found character '\\t' that cannot start"),
        ("a: 1\n---\nb: 2", "story.yaml:2: not YAML or JSON: but found another document"),
        ("a: 1\nb: \x07", "story.yaml:2: not YAML or JSON: character '\\x07' is not allowed"),
        (b"a: 1\nb: \xff", "story.yaml:2: byte 0xff is not UTF-8, needs UTF-8 text"),
        ("[" * 100_000, "story.yaml:1: not YAML or JSON: nested too deeply"),
        ('a: "\\UFFFFFFFF"', "story.yaml:1: not YAML or JSON: "),
        ("a: &a 1\nb: *a", "story.yaml:1: not YAML or JSON: found an anchor or alias (& or *)"),
        ("a:\n  !!python/object:os.system {}", "story.yaml:2: not YAML or JSON: found the tag "),
        ("[1]: 2\n" + ONE_SCENE, "story.yaml:1: unknown key a list of 1, needs one of scenes, "),
        ("#" * (MAX_FILE_BYTES + 1), "story.yaml: larger than 1000000 bytes, not a storyboard"),
    ],
)
def test_bad_files(problems, text, problem):
    (found,) = problems(text)
    assert found.startswith(problem)


def test_missing_file(tmp_path):
    with pytest.raises(StoryboardError, match=r"no\.yaml: cannot be read \(no such file"):
        Storyboard.read(tmp_path / "no.yaml")
    with pytest.raises(StoryboardError, match=r"cannot be read \(is a folder, pipe or device"):
        Storyboard.read(tmp_path)
    with pytest.raises(StoryboardError, match=r"cannot be read \(no such file\)"):
        Storyboard.read("a\0b")


@pytest.mark.parametrize("video", [".", '""', '"a\\0b"', "a" * 300, "story.yaml"])
def test_video_that_is_none(problems, video):
    (found,) = problems(f"scenes:\n  - prompt: a\n    video: {video}\n  - prompt: b")
    assert found.startswith("story.yaml:3: scenes[0].video: found ")
    assert "needs the path of a readable video" in found


def test_something_must_be_left_to_generate(problems):
    assert problems("scenes:\n  - {prompt: a, video: fox.mp4}") == [
        "story.yaml:2: scenes: all 1 have a video, needs one without: nothing is left to generate"
    ]


def test_mapping_round_trip(read, tmp_path):
    storyboard = read("scenes: [{prompt: a 🦊, video: fox.mp4}, {prompt: b}]\nsteps: 3\nfps: 8")
    mapping = storyboard.to_mapping()
    assert mapping == {
        "scenes": [{"prompt": "a 🦊", "video": str(tmp_path / "fox.mp4")}, {"prompt": "b"}],
        "steps": 3,
        "fps": 8.0,
    }
    assert Storyboard.from_mapping(mapping) == storyboard
    assert read(json.dumps(mapping)) == storyboard
    assert read(json.dumps(mapping, indent="\t", ensure_ascii=False)) == storyboard


def test_a_scene_may_have_its_own_settings_and_a_story_a_gate(read):
    text = """global_prompt: at sea
window: 4
new_scenes: 2
anchor: false
retries: 3
checks: [cut, finite]
scenes:
  - {prompt: a, frames: 9, seed: 4, guidance_scale: 1.5, negative_prompt: "", cut: true}
  - prompt: b
negative_prompt: grey
"""
    storyboard = read(text)
    assert storyboard.scenes[0] == Scene(
        **{"prompt": "a", "negative_prompt": "", "guidance_scale": 1.5, "frames": 9, "seed": 4},
        cut=True,
    )
    assert storyboard.negative_prompt == "grey"
    assert (storyboard.window, storyboard.new_scenes, storyboard.anchor) == (4, 2, False)
    assert (storyboard.retries, storyboard.checks) == (3, ("finite", "cut"))
    assert storyboard.global_prompt == "at sea"
    assert Storyboard.from_mapping(storyboard.to_mapping()) == storyboard
    assert storyboard.override({"checks": ["frozen"], "retries": 0}).checks == ("frozen",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checks: sharp\n", "story.yaml:1: checks: found 'sharp', needs one or a list of finite"),
        ("checks: [1]\n", "story.yaml:1: checks: found a list of 1, needs one or a list of"),
        ("retries: 101\n", "story.yaml:1: retries: found 101, needs a whole number, from 0 to 100"),
        ("window: 0\n", "story.yaml:1: window: found 0, needs a whole number, from 1 to 256"),
        ("anchor: 1\n", "story.yaml:1: anchor: found 1, needs true or false"),
    ],
)
def test_settings_of_long_stories_are_checked(read, text, message):
    with pytest.raises(StoryboardError) as error:
        read(text + ONE_SCENE)
    assert message in str(error.value)


def test_values_know_their_places(read, tmp_path):
    storyboard = read("""seed: 7
scenes:
  - video: fox.mp4
    prompt: >
      a fox
  - {prompt: b}
negative_prompt: c
steps: 3
""")
    file = f"{tmp_path}/story.yaml"
    assert storyboard.place("scenes[0].video") == f"{file}:3: scenes[0].video"
    assert storyboard.place("scenes[0].prompt") == f"{file}:4: scenes[0].prompt"
    assert storyboard.place("scenes[1].prompt") == f"{file}:6: scenes[1].prompt"
    assert storyboard.place("negative_prompt") == f"{file}:7: negative_prompt"
    assert storyboard.place("steps") == f"{file}:8: steps"
    assert Storyboard(scenes=[Scene(prompt="a")]).place("steps") == "steps"


def test_flags_replace_values_and_keep_the_other_places(read, tmp_path):
    storyboard = read(ONE_SCENE + "    video: fox.mp4\n  - prompt: b\nseed: 7\nsteps: 3")
    (tmp_path / "fox.mp4").unlink()  # the clips are not looked at again
    changed = storyboard.override({"seed": 0, "steps": None, "guidance_scale": 6}, "--")
    assert changed == Storyboard(scenes=storyboard.scenes, seed=0, steps=3, guidance_scale=6.0)
    assert changed.place("seed") == "--seed"
    assert changed.place("guidance_scale") == "--guidance_scale"
    assert changed.place("steps") == f"{tmp_path}/story.yaml:6: steps"
    assert storyboard.place("seed") == f"{tmp_path}/story.yaml:5: seed"
    with pytest.raises(StoryboardError) as error:
        storyboard.override({"seed": -1, "steps": 0}, "--")
    assert sorted(str(error.value).splitlines()) == [
        "--seed: found -1, needs a whole number, from 0 to 4294967295",
        "--steps: found 0, needs a whole number, from 1 to 100000",
    ]


def test_mapping_errors_have_no_line():
    with pytest.raises(StoryboardError) as error:
        Storyboard.from_mapping({"scenes": [{"prompt": " "}], "sed": 1}, source="request")
    assert str(error.value).splitlines() == [
        "request: unknown key 'sed', did you mean 'seed'?",
        "request: scenes[0].prompt: found ' ', needs a text that says what the scene shows",
    ]


# pieces that lead deeper into the reader than evenly drawn bytes do
_PIECES = st.lists(
    st.sampled_from(
        ["scenes: ", "prompt: ", "video: ", "seed", "fps", ": ", "- ", "? ", "<<: ", "#", ">"]
        + ["\n", "\n  ", "\t", "{", "}", "[", "]", ",", '"', "'", "&a ", "*a", "!!int ", "---"]
        + ["\\u", "\\ud83e", "\\UFFFFFFFF", "1e999", ".nan", "true", "null", "-", "7", "fox"]
        + ["%YAML 1.2\n", "é", "\x85", "\0", "\ufeff"]
    ),
    max_size=30,
).map(lambda pieces: "".join(pieces).encode())


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=200) | st.text(max_size=60).map(str.encode) | _PIECES)
def test_any_bytes_give_a_storyboard_or_its_error(tmp_path: Path, data: bytes):
    path = tmp_path / "story.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(Storyboard.read(path), Storyboard)
    except StoryboardError as error:
        assert str(error).startswith(str(path))


def test_of_many_problems_the_first_are_named_and_the_others_counted(problems):
    found = problems("scenes:\n" + "- 1\n" * 2000)
    assert len(found) == 51
    assert found[0].startswith("story.yaml:2: scenes[0]: found 1, needs a mapping with the keys")
    assert found[-1] == "... and 1950 more problems"


@pytest.mark.parametrize("value", ["1", "1.5", "true", "{a: 1}", "[1]", "[[cut]]", "[cut, null]"])
def test_checks_of_odd_types_are_refused(problems, value):
    (found,) = problems(f"{ONE_SCENE}checks: {value}")
    assert "checks: found" in found and "needs one or a list of finite, frozen" in found


def test_a_scene_may_be_nothing_but_its_prompt(read, problems):
    assert read("scenes: [a red cross, it moves up]").scenes == (
        *(Scene(prompt="a red cross"), Scene(prompt="it moves up")),
    )
    board = Storyboard(scenes=["a", {"prompt": "b"}])  # pyright: ignore[reportArgumentType]
    assert [scene.prompt for scene in board.scenes] == ["a", "b"]
    assert problems("scenes:\n  - a\n  - ''\n  - 3\n") == [
        "story.yaml:3: scenes[1].prompt: found '', needs a text that says what the scene shows",
        "story.yaml:4: scenes[2]: found 3, needs a mapping with the keys prompt, video, "
        "image, use, crop, negative_prompt, guidance_scale, frames, seed, cut, take, lora, keep",
    ]


def test_a_name_without_its_ending_means_the_plainest_that_begins_with_it(problems):
    (found,) = problems(f"{ONE_SCENE}guidance: 3")
    assert found == "story.yaml:3: unknown key 'guidance', did you mean 'guidance_scale'?"


def test_prompts_alone_are_a_storyboard_whose_errors_name_the_flag():
    board = Storyboard.from_prompts(["a", "b"], "--prompt")
    assert board == Storyboard.from_mapping({"scenes": ["a", "b"]})
    assert board.place("scenes[1].prompt") == "--prompt (scene 2)"
    with pytest.raises(StoryboardError, match=r"^--prompt \(scene 2\): found ' ', needs a text"):
        Storyboard.from_prompts(["a", " "], "--prompt")


def test_kept_scenes_and_takes_are_of_scenes_without_video(read, problems, tmp_path):
    scenes = read("scenes: [{prompt: a, keep: true}, {prompt: b, take: 2}]")
    assert [(s.keep, s.take) for s in scenes.scenes] == [(True, 0), (False, 2)]
    assert scenes.to_mapping()["scenes"] == [
        *({"prompt": "a", "keep": True}, {"prompt": "b", "take": 2})
    ]
    found = problems(
        "scenes:\n- {prompt: a, video: story.yaml, keep: true, take: 1}\n- {prompt: b, take: -1}"
    )
    needed = "needs a scene without video; a clip is kept as it is, and has no takes"
    assert f"story.yaml:2: scenes[0].keep: found true, {needed}" in found
    assert f"story.yaml:2: scenes[0].take: found 1, {needed}" in found
    assert "story.yaml:3: scenes[1].take: found -1, needs a whole number, from 0 to 1000" in found
