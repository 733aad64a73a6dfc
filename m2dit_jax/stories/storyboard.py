"""The user's input: a storyboard, from Python or from a file, checked.

seed: 7
negative_prompt: blurry
global_prompt: in the manner of an old woodcut    # every scene sees it
scenes:
  - prompt: A fox wakes in the snow.
    video: fox.mp4            # given: kept as it is, and the story goes on from it
  - prompt: The fox crosses a frozen river.
    frames: 25                # the others have the story's, or the model's
    cut: true                 # the gate asks for a cut between the scene before and this one
  - prompt: It drinks.
    take: 1                   # drawn anew; 0 is the first take, and is not lost
  - prompt: It looks back.
    keep: true                # stays as it was made, whatever changes before it
  - The sun goes down.        # nothing but a prompt

A scene may have a picture: `image: fox.png`, as a reference that all scenes see and that is no part
of the video, before all others; or with `use: first_frame` as the frame that the scene begins with.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr

from m2dit_jax.stories.scene import LORA_NEEDED, Lora, Scene, lora_in
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.yaml import Item, StoryboardError, from_value, parse, read_text
from m2dit_jax.utils.media import VideoError, check_clip
from m2dit_jax.utils.options import (
    OptionError,
    joined_surrogates,
    option,
    problem_lines,
    short,
    unknown_key,
    wrong,
)
from m2dit_jax.utils.remote.bucket import BucketError
from m2dit_jax.utils.remote.places import place_beside
from m2dit_jax.utils.stills import StillError, read_still


def _from_prompts(scenes: Any) -> Any:
    """The scenes; one that is nothing but a text is its prompt."""
    if not isinstance(scenes, list | tuple):
        return scenes
    return [{"prompt": scene} if isinstance(scene, str) else scene for scene in scenes]


def _not_all_given(scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    if all(scene.given for scene in scenes):
        problem = f"all {len(scenes)} have a video, needs one without: nothing is left to generate"
        if any(scene.is_reference for scene in scenes):
            problem = f"all {len(scenes)} are given, needs one without video and reference"
        raise OptionError([("", problem)])
    references = sum(scene.is_reference for scene in scenes)
    for number, scene in enumerate(scenes[references:], references + 1):
        if scene.is_reference:
            problem = f"scene {number} is a reference after others; needs references first"
            raise OptionError([("", problem)])
    return scenes


class Storyboard(StoryOptions, frozen=True):
    """A story to generate: its scenes, and the settings that it does not leave to the model.

    A setting that is left out is the model's own default, else the declared one (`filled`). Raises
    OptionError, StoryboardError from a file, with every problem.
    """

    scenes: Annotated[
        tuple[Scene, ...],
        Field(strict=False, min_length=1),
        BeforeValidator(_from_prompts),
        AfterValidator(_not_all_given),
    ] = Field(
        description="The story's scenes, in order.",
        json_schema_extra={"needed": "a list of scenes, each with a prompt"},
    )
    lora: Lora = option(
        (),
        "Files of adapters (LoRA) of all scenes, FILE or FILE:WEIGHT; of a model of two "
        "transformers, high_noise=FILE or low_noise=FILE are for one of them.",
        affects="scene",
        needed=LORA_NEEDED,
    )
    _places: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str) -> "Storyboard":
        """Storyboard of a YAML or JSON file; a relative `video` lies in the file's own folder.

        Videos, pictures and adapters may be addresses in buckets, and are copied here.

        Raises StoryboardError with every problem of the file, and no other exception.
        """
        path = Path(path)
        tree = parse(read_text(path), str(path))
        return cls._from_tree(tree, path.parent, str(path), place_beside)

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], folder: Path | str = ".", source: str = "storyboard"
    ) -> "Storyboard":
        """Storyboard that a file with this content would give.

        A relative `video` is looked for in `folder`; `source` names the mapping in errors. Raises
        StoryboardError, without line numbers.
        """
        return cls._from_tree(from_value(mapping), Path(folder), source)

    @classmethod
    def from_prompts(cls, prompts: Sequence[str], flag: str) -> "Storyboard":
        """Storyboard of scenes that are nothing but a prompt; `flag` names them in errors.

        Raises StoryboardError, naming the flag and which of them it is.
        """
        names = {f"scenes[{i}].prompt": f"{flag} (scene {i + 1})" for i in range(len(prompts))}
        try:
            storyboard = cls(scenes=tuple(prompts))  # pyright: ignore[reportArgumentType]
        except OptionError as error:
            lines = (f"{names.get(path, path)}: {problem}" for path, problem in error.problems)
            raise StoryboardError(problem_lines(lines)) from None
        storyboard._places.update(names)
        return storyboard

    @classmethod
    def _from_tree(
        cls,
        tree: Item,
        folder: Path,
        source: str,
        open_place: Callable[[Path, str], Path] = operator.truediv,
    ) -> "Storyboard":
        reader = _Reader(source, folder, open_place)
        values = reader.mapping(tree, "", ("scenes", *StoryOptions.model_fields, "lora"))
        storyboard = None
        if values is not None:
            try:
                storyboard = cls(**values)
            except OptionError as error:
                for path, problem in error.problems:
                    reader.problem(path, problem)
        reader.check_clips()
        reader.raise_problems()
        assert storyboard is not None, "else there are problems"
        storyboard._places.update({path: reader.place(path) for path in reader.lines if path})
        return storyboard

    def override(self, values: Mapping[str, Any], prefix: str = "") -> "Storyboard":
        """The storyboard with other values for some settings; None leaves one as it is.

        In errors a setting's place is its name with the prefix: "--" for command line flags. Raises
        StoryboardError for values that a file could not have either.
        """
        given = {name: value for name, value in values.items() if value is not None}
        try:
            changed = self.replace(**given)
        except OptionError as error:
            lines = (
                f"{prefix}{path}: {problem}" if path else problem
                for path, problem in error.problems
            )
            raise StoryboardError(problem_lines(lines)) from None
        changed._places.update(self._places | {name: f"{prefix}{name}" for name in given})
        return changed

    def place(self, name: str) -> str:
        """Place and name of a field such as `scenes[0].prompt`: the file's line, or the flag."""
        return self._places.get(name, name)

    def places(self, *names: str) -> str:
        """Places of those of the fields that were written at all."""
        return ", ".join(self._places[name] for name in names if name in self._places)

    @property
    def given(self) -> tuple[bool, ...]:
        """One flag per scene: it is a clip or a picture that is kept as it is."""
        return tuple(scene.given for scene in self.scenes)

    @property
    def references(self) -> int:
        """Number of pictures that all scenes see; they are the first of `scenes`."""
        return sum(scene.is_reference for scene in self.scenes)

    def filled(self, defaults: StoryOptions) -> StoryOptions:
        """Every setting of the story, with a model's defaults for what it leaves out."""
        own = {n: v for n, v in self.given_values().items() if n in StoryOptions.model_fields}
        if "window" in own and "new_scenes" not in own:
            own["new_scenes"] = min(defaults.new_scenes, own["window"])
        return StoryOptions(**defaults.given_values() | own)

    def to_mapping(self, videos: Mapping[int, Path | str] | None = None) -> dict[str, Any]:
        """The content of a storyboard file, fit for JSON; what is left to defaults is left out.

        Clips and adapters stand there by absolute path; `videos` says by scene, from 0, where clips
        can be read that were given as frames. Raises ValueError if one has no path.
        """
        return {
            "scenes": self.scenes_to_mapping(videos or {}),
            **settings_to_mapping(self.given_values()),
            **self.lora_to_mapping(),
        }

    def lora_to_mapping(self) -> dict[str, list[str]]:
        """The adapters' part of `to_mapping`, empty without any."""
        return {"lora": [lora_in(Path(), lora) for lora in self.lora]} if self.lora else {}

    def scenes_to_mapping(self, videos: Mapping[int, Path | str]) -> list[dict[str, Any]]:
        """The scenes' part of `to_mapping`."""
        mappings = []
        for number, scene in enumerate(self.scenes):
            try:
                mappings.append(scene.to_mapping(videos.get(number)))
            except ValueError as error:
                raise ValueError(f"scenes[{number}].{error}") from None
        return mappings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storyboard) and vars(self) == vars(other)


def settings_to_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a storyboard file has them: lists for tuples, nothing for None; no scenes."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name != "scenes" and value is not None
    }


class _Reader:
    """Turns a tree into plain values, and remembers lines and problems."""

    def __init__(self, source: str, folder: Path, open_place: Callable[[Path, str], Path]):
        self.source = source
        self.folder = folder
        self.open_place = open_place  # the path of what is named, from the folder on
        self.lines: dict[str, int | None] = {}  # of every field that is there, by its path
        self.clips: dict[str, str] = {}  # as they are named, by path of the field
        self.problems: list[tuple[int, str]] = []  # line and message

    def mapping(self, item: Item, path: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
        """The values of the known keys that are not null; None if the item is no mapping."""
        self.lines[path] = item.line
        if not isinstance(item.value, tuple):
            needed = f"a mapping with the keys {', '.join(keys)}"
            self.problem(path, wrong(item.plain(), needed))
            return None
        found: dict[str, Item] = {}
        first_line: dict[str, int | None] = {}
        for key, value in item.value:
            name = key.plain()
            if not isinstance(name, str) or name not in keys:
                self.problem(path, unknown_key(name, keys), key.line)
                continue
            full_name = f"{path}.{name}" if path else name
            if name in found:
                problem = f"given twice, first on line {first_line[name]}, needs one value"
                self.problem(full_name, problem, key.line)
                continue
            found[name], first_line[name] = value, key.line
            self.lines[full_name] = value.line
        prefix = f"{path}." if path else ""
        values = {name: self._value(prefix + name, value) for name, value in found.items()}
        return {name: value for name, value in values.items() if value is not None}

    def _value(self, path: str, item: Item) -> Any:
        if path == "scenes" and isinstance(item.value, list):
            return [self._scene(f"scenes[{n}]", scene) for n, scene in enumerate(item.value)]
        value = item.plain()
        if path == "lora" or path.endswith("].lora"):
            return self._lora(value)
        if path.endswith(("].video", "].image")) and isinstance(value, str):
            with suppress(ValueError):  # `check_clips` says so
                value = joined_surrogates(value)
            self.clips[path] = value
            with suppress(OSError, ValueError):  # as above
                return self.open_place(self.folder, value)
            return self.folder / value
        return value

    def _lora(self, value: Any) -> Any:
        """Files of adapters, which lie in the storyboard's folder where they are relative."""
        files = [value] if isinstance(value, str) else value
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            return value
        return [lora_in(self.folder, file) for file in files]

    def _scene(self, path: str, item: Item) -> Any:
        self.lines[path] = item.line
        if isinstance(item.value, str):
            self.lines[f"{path}.prompt"] = item.line
        if not isinstance(item.value, tuple):
            return item.plain()
        return self.mapping(item, path, tuple(Scene.model_fields))

    def check_clips(self) -> None:
        """Notes which of the given clips and pictures cannot be read."""
        for path, name in self.clips.items():
            is_video = path.endswith("].video")
            what = "video" if is_video else "picture"
            try:
                clip = self.open_place(self.folder, joined_surrogates(name))
                (check_clip if is_video else read_still)(clip)
            except (VideoError, StillError) as error:
                self.problem(path, wrong(name, f"the path of a readable {what} ({short(error)})"))
            except ValueError as error:
                self.problem(path, wrong(name, str(error)))
            except BucketError as error:
                self.problem(path, str(error))

    def problem(self, path: str, problem: str, line: int | None = None) -> None:
        """Notes a problem, on the line of the field or, if it is not there, of what lacks it."""
        known = path if path in self.lines else path.rpartition(".")[0]
        line = self.lines[known] if line is None else line
        self.problems.append((line or 0, f"{self.place(path, line)}: {problem}"))

    def place(self, path: str, line: int | None = None) -> str:
        """Source, line and path of a field."""
        line = self.lines.get(path) if line is None else line
        place = self.source if line is None else f"{self.source}:{line}"
        return f"{place}: {path}" if path else place

    def raise_problems(self) -> None:
        if self.problems:
            in_file_order = sorted(self.problems, key=lambda problem: problem[0])
            raise StoryboardError(problem_lines(message for _, message in in_file_order))
