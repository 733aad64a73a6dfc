"""Storyboards from the story scripts of ST-Bench, the prompts of StoryMem.

    {"story_overview": "A fox looks for its den.",
     "scenes": [{"scene_num": 1,
                 "video_prompts": ["A fox wakes in the snow.", "It stretches."],
                 "cut": [true, false]}]}

Each video prompt becomes a scene of ours, with `cut` where the script has one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError, parse, read_text
from m2dit_jax.utils.options import shown, wrong

_ENDS = (".json", ".json5")
_FLAGS = {"true": True, "True": True, "false": False, "False": False}


@dataclass(frozen=True)
class Script:
    """A story script: its name, and its content or what is wrong with it."""

    name: str
    content: Mapping[str, Any] | None
    problem: str = ""


def read_scripts(source: Path) -> Iterator[Script]:
    """The scripts of a folder's JSON files, or of one file: a script, or a list of such.

    Files may have the comments on lines of their own and the last commas that JSON5 allows. Raises
    ValueError if there is no file.
    """
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix in _ENDS)
        if not files:
            raise ValueError(f"{source}: found no .json files, needs those of story scripts")
    elif source.is_file():
        files = [source]
    else:
        raise ValueError(f"{source}: no such file or folder")
    for path in files:
        try:
            yield from _scripts_of(path)
        except StoryboardError as error:
            yield Script(path.stem, None, str(error))


def to_storyboard(script: Script, overview: bool = False) -> Storyboard:
    """The storyboard of a script; with `overview` every scene sees the story's overview.

    Raises ValueError, naming the field, for a script that is not as it should be.
    """
    if script.content is None:
        raise ValueError(script.problem)
    scenes = _list(script.content, "scenes", script.name)
    board: dict[str, Any] = {"scenes": []}
    if overview:
        board["global_prompt"] = _text(script.content.get("story_overview"), "story_overview")
    last = 0
    for number, scene in enumerate(scenes):
        place = f"scenes[{number}]"
        if not isinstance(scene, Mapping):
            raise ValueError(f"{place}: {wrong(scene, 'a mapping with video_prompts')}")
        last = _scene_number(scene, place, last)
        prompts = _list(scene, "video_prompts", place)
        cuts = _cuts(scene, place, len(prompts))
        for shot, (prompt, cut) in enumerate(zip(prompts, cuts, strict=True)):
            text = _text(prompt, f"{place}.video_prompts[{shot}]")
            board["scenes"].append({"prompt": text} | ({"cut": True} if cut else {}))
    return Storyboard.from_mapping(board, source=script.name)


def _scripts_of(path: Path) -> Iterator[Script]:
    # No line of JSON needs its indent, and YAML takes no tabs for one.
    lines = [line.strip() for line in read_text(path).split("\n")]
    text = "\n".join("" if line.startswith("//") else line for line in lines)
    content = parse(text, str(path)).plain()
    for number, item in enumerate(content if isinstance(content, list) else [content], 1):
        name = f"{path.stem}_{number}" if isinstance(content, list) else path.stem
        if isinstance(item, Mapping):
            yield Script(name, item)
        else:
            yield Script(name, None, wrong(item, "a story script: a mapping with scenes"))


def _cuts(scene: Mapping[str, Any], place: str, prompts: int) -> Sequence[bool]:
    """A flag for each prompt; the texts "True" and "False" are flags too."""
    cuts = scene.get("cut")
    if cuts is None:
        raise ValueError(f"{place}.cut: missing, needs true or false for each of {prompts} prompts")
    flags = cuts if isinstance(cuts, list) else [cuts]
    flags: list[Any] = [_FLAGS.get(flag, flag) if isinstance(flag, str) else flag for flag in flags]
    for number, flag in enumerate(flags):
        if not isinstance(flag, bool):
            raise ValueError(f"{place}.cut[{number}]: {wrong(flag, 'true or false')}")
    if len(flags) != prompts:
        raise ValueError(f"{place}.cut: found {len(flags)} for {prompts} video_prompts")
    return flags


def _scene_number(scene: Mapping[str, Any], place: str, last: int) -> int:
    """Scenes come in the order of their numbers, in which StoryMem joins their videos."""
    number = scene.get("scene_num", last + 1)
    if type(number) is not int or number <= last:
        raise ValueError(f"{place}.scene_num: {wrong(number, f'a whole number above {last}')}")
    return number


def _list(values: Mapping[str, Any], name: str, place: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list) or not found:
        raise ValueError(f"{place}.{name}: {wrong(found, 'a list that is not empty')}")
    return found


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: found {shown(value)}, needs a text")
    return value
