import json

import pytest

from m2dit_jax.stories.st_bench import Script, read_scripts, to_storyboard

SCENES = [
    {"scene_num": 1, "video_prompts": ["A fox wakes.", "It stretches."], "cut": [True, False]},
    {"scene_num": 2, "video_prompts": ["It crosses a river."], "cut": ["True"]},
]
FOX = {"story_overview": "A fox goes home.", "scenes": SCENES}


def test_each_prompt_is_a_scene():
    board = to_storyboard(Script("fox", FOX))
    assert [scene.prompt for scene in board.scenes] == [
        "A fox wakes.",
        "It stretches.",
        "It crosses a river.",
    ]
    assert [scene.cut for scene in board.scenes] == [True, False, True]
    assert "global_prompt" not in board.to_mapping()
    assert to_storyboard(Script("fox", FOX), overview=True).global_prompt == "A fox goes home."


def change(**changes):
    return FOX | {"scenes": [SCENES[0] | changes, SCENES[1]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"fox\.scenes: found nothing, needs a list"),
        (FOX | {"scenes": []}, r"fox\.scenes: found a list of 0"),
        (FOX | {"scenes": ["a"]}, r"scenes\[0\]: found 'a', needs a mapping"),
        (change(video_prompts="a"), r"scenes\[0\]\.video_prompts: found 'a', needs a list"),
        (change(video_prompts=["a", ""]), r"video_prompts\[1\]: found '', needs a text"),
        (change(video_prompts=["a", 3]), r"video_prompts\[1\]: found 3, needs a text"),
        (change(cut=[True]), r"scenes\[0\]\.cut: found 1 for 2 video_prompts"),
        (change(cut=[True, "no"]), r"cut\[1\]: found 'no', needs true or false"),
        (change(cut=None), r"scenes\[0\]\.cut: missing, needs true or false for each of 2"),
        (change(scene_num=2), r"scenes\[1\]\.scene_num: found 2, needs a whole number above 2"),
        (change(scene_num="1"), r"scenes\[0\]\.scene_num: found '1'"),
    ],
)
def test_what_is_wrong_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        to_storyboard(Script("fox", content))


def test_an_overview_must_be_there_to_be_seen():
    with pytest.raises(ValueError, match="story_overview: found nothing, needs a text"):
        to_storyboard(Script("fox", {"scenes": SCENES}), overview=True)


def test_files_of_a_folder(tmp_path):
    text = json.dumps(FOX, indent="\t").rstrip("}") + "\t,}"
    (tmp_path / "b.json").write_text(f"// StoryMem reads JSON5\n{text}")
    (tmp_path / "a.json").write_text(json.dumps([FOX, 3]))
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not read")
    found = list(read_scripts(tmp_path))
    assert [script.name for script in found] == ["a_1", "a_2", "b", "c"]
    assert found[0].content == found[2].content == FOX
    with pytest.raises(ValueError, match="found 3, needs a story script"):
        to_storyboard(found[1])
    with pytest.raises(ValueError, match=r"c\.json:1: not YAML or JSON"):
        to_storyboard(found[3])


def test_a_source_without_scripts(tmp_path):
    with pytest.raises(ValueError, match=r"found no \.json files"):
        list(read_scripts(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder"):
        list(read_scripts(tmp_path / "none"))
