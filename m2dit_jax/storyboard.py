"""The user's input: a storyboard file, read and checked.

    seed: 7
    negative_prompt: blurry
    scenes:
      - prompt: A fox wakes in the snow.
        video: fox.mp4            # given: kept as it is, and the story goes on from it
      - prompt: The fox crosses a frozen river.

YAML and JSON are both read through the YAML node tree, since it knows the line of every value.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.media import VideoError, check_clip

MAX_FILE_BYTES = 1_000_000
MAX_SEED = 2**32 - 1  # jax.random.key keeps 32 bits: seed 2**32 would repeat the story of seed 0
MIN_FPS, MAX_FPS = 0.1, 240.0

STORYBOARD_KEYS = (
    *("scenes", "seed", "negative_prompt", "fps", "frames", "height", "width"),
    *("sampler", "steps", "guidance_scale", "dynamic_guidance", "as_reference", "noise_given"),
)
SCENE_KEYS = ("prompt", "video")


class StoryboardError(ValueError):
    """All that is wrong with a storyboard, a line each: `file:line: field: found, needed`."""


@dataclass(frozen=True)
class StoryScene:
    """One scene. `video` is the clip of a scene that is given, None for one to generate."""

    prompt: str
    video: Path | None = None


@dataclass(frozen=True)
class Storyboard:
    """A story to generate. None stands for the model's own default, filled in later.

    `frames` are those of a scene, `height` and `width` pixels, `fps` frames per second.
    `guidance_scale` 1 is no guidance, `dynamic_guidance` lets it grow over the steps.
    `as_reference` samples with the reference's defects (`diffusion.samplers`), `noise_given` gives
    the given scenes the noise of timestep 0, as the reference does when it extends. `places` says
    where the values were written, for errors that only the model brings to light:
    "story.yaml:3: steps", "--steps".
    """

    scenes: tuple[StoryScene, ...]
    seed: int = 0
    negative_prompt: str = ""
    fps: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    dynamic_guidance: bool = False
    as_reference: bool = False
    noise_given: bool = False
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, name: str) -> str:
        """Where the value of a field such as `scenes[0].prompt` was written, with its name."""
        return self.places.get(name, name)

    @property
    def given(self) -> tuple[bool, ...]:
        return tuple(scene.video is not None for scene in self.scenes)


def read_storyboard(path: Path | str) -> Storyboard:
    """Reads a YAML or JSON storyboard; a relative `video` is looked for in the file's own folder.

    Raises StoryboardError with every problem of the file, and no other exception.
    """
    path = Path(path)
    return _check(_parse(_read_text(path), str(path)), path.parent, str(path))


def storyboard_from_mapping(
    mapping: Mapping[str, Any], folder: Path | str = ".", source: str = "storyboard"
) -> Storyboard:
    """The storyboard that a file with this content would give.

    `folder` is where a relative `video` is looked for; `source` names the mapping in errors.
    Raises StoryboardError, without line numbers.
    """
    return _check(_from_value(mapping), Path(folder), source)


def override(storyboard: Storyboard, **flags: Any) -> Storyboard:
    """The storyboard with the values of those command line flags that are not None.

    Raises StoryboardError, naming the flags, for values that a file could not have either.
    """
    items = {name: _Item(value, None) for name, value in flags.items() if value is not None}
    checker = _FlagChecker("flags", Path())
    values = checker.settings(items)
    checker.raise_problems()
    return replace(
        storyboard,
        **{name: values[name] for name in items},
        places={**storyboard.places, **{name: checker.place(None, name) for name in items}},
    )


def storyboard_to_mapping(storyboard: Storyboard) -> dict[str, Any]:
    """The content of a storyboard file, fit for JSON; clips by absolute path, defaults left out."""
    scenes = [
        {"prompt": scene.prompt}
        | ({} if scene.video is None else {"video": str(scene.video.absolute())})
        for scene in storyboard.scenes
    ]
    mapping = {key: getattr(storyboard, key) for key in STORYBOARD_KEYS} | {"scenes": scenes}
    return {key: value for key, value in mapping.items() if value is not None}


# --- from bytes to a tree of values that know their lines


@dataclass(frozen=True)
class _Item:
    """A value and the line it starts on (None outside a file).

    A list holds items; a mapping is a tuple of (key item, value item), so that a duplicate stays.
    """

    value: Any
    line: int | None


class _Loader(yaml.BaseLoader):
    """Composes nodes without building any object, and refuses what a storyboard has no use for."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # an alias can make a small file expand without end; a tag can ask for a Python object
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.MarkedYAMLError(
                problem="found an anchor or alias (& or *), write the value out, or quote the text",
                problem_mark=event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"found the tag {_shown(event.tag)}, needs a plain value, or quotes around",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise StoryboardError(f"{path}: cannot be read ({reason})") from error
    if len(data) > MAX_FILE_BYTES:
        raise StoryboardError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a storyboard")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StoryboardError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8, needs UTF-8 text"
        ) from error


def _parse(text: str, source: str) -> _Item:
    """The file's tree. Raises StoryboardError when the text is neither YAML nor JSON."""
    try:
        node = yaml.compose(_yaml_from_json(text), Loader=_Loader)
        return _Item(None, 1) if node is None else _from_node(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"character {_shown(text[error.position])} is not allowed"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        reason = error.problem or error.context
    except RecursionError:
        line, reason = 1, "nested too deeply"
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode
        line, reason = 1, error
    raise StoryboardError(f"{source}:{line}: not YAML or JSON: {reason}")


def _yaml_from_json(text: str) -> str:
    """Makes JSON into YAML, line by line; other text stays as it is.

    The one thing of JSON that the YAML reader refuses is a tab between values. JSON has no bare tab
    within a string, so that in a text which is JSON every tab may become a space.
    """
    if "\t" not in text:
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


def _from_node(node: yaml.Node) -> _Item:
    line = node.start_mark.line + 1
    match node:
        case yaml.MappingNode():
            return _Item(tuple((_from_node(k), _from_node(v)) for k, v in node.value), line)
        case yaml.SequenceNode():
            return _Item([_from_node(child) for child in node.value], line)
        case yaml.ScalarNode(style=None):
            return _Item(_plain_value(node.value), line)
        case _:
            return _Item(node.value, line)


def _from_value(value: Any) -> _Item:
    match value:
        case Mapping():
            return _Item(
                tuple((_from_value(k), _from_value(v)) for k, v in value.items()), line=None
            )
        case list() | tuple():
            return _Item([_from_value(child) for child in value], line=None)
        case _:
            return _Item(value, line=None)


_INT = re.compile(r"[-+]?[0-9]{1,4000}")  # Python itself refuses to read an int much longer
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF|Infinity)|\.nan|\.NaN|\.NAN|NaN")


def _plain_value(text: str) -> Any:
    """An unquoted value by the rules of YAML 1.2, which are JSON's.

    PyYAML's own rules are those of YAML 1.1: there `yes` is a bool, 010 is 8, and 1e3 is text.
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


# --- from the tree to a storyboard


def _check(tree: _Item, folder: Path, source: str) -> Storyboard:
    checker = _Checker(source, folder)
    storyboard = checker.storyboard(tree)
    checker.raise_problems()
    return storyboard


class _Checker:
    """Walks the tree and collects the problems; what stands in for a bad value is never used."""

    def __init__(self, source: str, folder: Path):
        self.source = source
        self.folder = folder
        self.problems: list[tuple[int, str]] = []  # line and message
        self.places: dict[str, str] = {}  # of all fields that are there

    def storyboard(self, tree: _Item) -> Storyboard:
        fields = self.mapping(tree, "", STORYBOARD_KEYS)
        if fields is None:
            return Storyboard(())
        return Storyboard(
            scenes=self.scenes(fields.get("scenes"), tree.line),
            **self.settings(fields),
            places=self.places,
        )

    def settings(self, fields: Mapping[str, _Item]) -> dict[str, Any]:
        """All but the scenes; the default for what is not among the fields."""
        return {
            "seed": self.integer(fields.get("seed"), "seed", 0, MAX_SEED) or 0,
            "negative_prompt": self.text(fields.get("negative_prompt"), "negative_prompt") or "",
            "fps": self.number(fields.get("fps"), "fps", MIN_FPS, MAX_FPS),
            **{
                name: self.integer(fields.get(name), name, 1)
                for name in ("frames", "height", "width", "steps")
            },
            "sampler": self.choice(fields.get("sampler"), "sampler", SAMPLERS),
            "guidance_scale": self.number(fields.get("guidance_scale"), "guidance_scale", 0.0),
            **{
                name: self.boolean(fields.get(name), name)
                for name in ("dynamic_guidance", "as_reference", "noise_given")
            },
        }

    def scenes(self, item: _Item | None, parent_line: int | None) -> tuple[StoryScene, ...]:
        needed = "a list of scenes, each with a prompt"
        if item is None:
            self.problem(parent_line, "scenes", f"missing, needs {needed}")
            return ()
        if not isinstance(item.value, list) or not item.value:
            self.wrong(item, "scenes", needed)
            return ()
        scenes = tuple(
            self.scene(child, f"scenes[{number}]") for number, child in enumerate(item.value)
        )
        if all(scene.video is not None for scene in scenes):
            self.problem(
                item.line,
                "scenes",
                f"all {len(scenes)} have a video, needs one without: nothing is left to generate",
            )
        return scenes

    def scene(self, item: _Item, field: str) -> StoryScene:
        fields = self.mapping(item, field, SCENE_KEYS)
        if fields is None:
            return StoryScene("")
        needed = "a text that says what the scene shows"
        prompt = fields.get("prompt")
        if prompt is None:
            self.problem(item.line, f"{field}.prompt", f"missing, needs {needed}")
        elif prompt.value is None or prompt.value == "" or str(prompt.value).isspace():
            self.wrong(prompt, f"{field}.prompt", needed)
        text = self.text(prompt, f"{field}.prompt") or ""
        return StoryScene(text.strip(), self.video(fields.get("video"), f"{field}.video"))

    def video(self, item: _Item | None, field: str) -> Path | None:
        """The path also of a clip that cannot be read: the scene is meant to be given."""
        name = self.text(item, field)
        if item is None or name is None:
            return None
        path = self.folder / name
        try:
            check_clip(path)
        except VideoError as error:
            self.wrong(item, field, f"the path of a readable video ({error})")
        return path

    def mapping(self, item: _Item, field: str, keys: tuple[str, ...]) -> dict[str, _Item] | None:
        """The known keys' items by name; None when the item is no mapping at all."""
        if not isinstance(item.value, tuple):
            self.wrong(item, field, f"a mapping with the keys {', '.join(keys)}")
            return None
        fields: dict[str, _Item] = {}
        first_line: dict[str, int | None] = {}
        for key, value in item.value:
            name = key.value
            if not isinstance(name, str) or name not in keys:
                self.problem(key.line, field, f"unknown key {_shown(name)}, {_nearest(name, keys)}")
            elif name in fields:
                self.problem(
                    key.line,
                    _joined(field, name),
                    f"given twice, first on line {first_line[name]}, needs one value",
                )
            else:
                fields[name] = value
                first_line[name] = key.line
                full_name = _joined(field, name)
                self.places[full_name] = self.place(value.line, full_name)
        return fields

    def text(self, item: _Item | None, field: str) -> str | None:
        if item is None or item.value is None:
            return None
        if not isinstance(item.value, str):
            self.wrong(item, field, "text; put quotes around it if it is meant as text")
            return None
        try:
            # JSON writes a character beyond 16 bits as two escapes; this joins them into one
            return item.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.wrong(item, field, r"text; one half of a \uD800-\uDFFF pair is missing")
            return None

    def choice(self, item: _Item | None, field: str, names: tuple[str, ...]) -> str | None:
        if item is None or item.value is None:
            return None
        if item.value not in names:
            self.wrong(item, field, f"one of {', '.join(names)}")
            return None
        return item.value

    def boolean(self, item: _Item | None, field: str) -> bool:
        if item is None or item.value is None:
            return False
        if not isinstance(item.value, bool):
            self.wrong(item, field, "true or false")
            return False
        return item.value

    def integer(
        self, item: _Item | None, field: str, least: int, most: int | None = None
    ) -> int | None:
        if item is None or item.value is None:
            return None
        value = item.value
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < least
            or (most is not None and value > most)
        ):
            self.wrong(item, field, f"a whole number, {_range(least, most)}")
            return None
        return value

    def number(
        self, item: _Item | None, field: str, least: float, most: float | None = None
    ) -> float | None:
        if item is None or item.value is None:
            return None
        try:
            value = math.nan if isinstance(item.value, bool | str) else float(item.value)
        except (TypeError, OverflowError):
            value = math.nan
        if not math.isfinite(value) or value < least or (most is not None and value > most):
            self.wrong(item, field, f"a finite number, {_range(least, most)}")
            return None
        return value

    def wrong(self, item: _Item, field: str, needed: str) -> None:
        self.problem(item.line, field, f"found {_shown(item.value)}, needs {needed}")

    def problem(self, line: int | None, field: str, message: str) -> None:
        self.problems.append((line or 0, f"{self.place(line, field)}: {message}"))

    def place(self, line: int | None, field: str) -> str:
        place = self.source if line is None else f"{self.source}:{line}"
        return f"{place}: {field}" if field else place

    def raise_problems(self) -> None:
        if self.problems:
            in_file_order = sorted(self.problems, key=lambda problem: problem[0])
            raise StoryboardError("\n".join(message for _, message in in_file_order))


class _FlagChecker(_Checker):
    """For values from the command line, where a field's flag is the whole place."""

    def place(self, line: int | None, field: str) -> str:
        return f"--{field}"


def _joined(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _range(least: float | int, most: float | int | None) -> str:
    return f"{least:g} or more" if most is None else f"from {least} to {most}"


def _nearest(name: Any, keys: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name)[:100], keys, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"needs one of {', '.join(keys)}"


def _shown(value: Any) -> str:
    """The value on one line of at most 60 characters, as its file would write it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case list():
            return f"a list of {len(value)}"
        case tuple():
            return f"a mapping of {len(value)}"
        case int() if abs(value) > 10**57:
            return "a number of very many digits"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
