"""The user's input: a storyboard file, read and checked.

seed: 7
negative_prompt: blurry
global_prompt: in the manner of an old woodcut    # every scene sees it
scenes:
  - prompt: A fox wakes in the snow.
    video: fox.mp4            # given: kept as it is, and the story goes on from it
  - prompt: The fox crosses a frozen river.
    frames: 25                # the others have the story's, or the model's
    cut: true                 # the gate asks for a cut between the scene before and this one
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.stories.gate import CHECKS
from m2dit_jax.stories.yaml_tree import (
    Item,
    StoryboardError,
    from_value,
    parse,
    read_text,
    shown,
)
from m2dit_jax.utils.media import VideoError, check_clip

MAX_SEED = 2**32 - 1  # jax.random.key keeps 32 bits: seed 2**32 would repeat the story of seed 0
MIN_FPS, MAX_FPS = 0.1, 240.0
MAX_RETRIES = 100
_SHARES = {"guidance_start": 0.0, "guidance_end": 1.0, "cache_tolerance": 0.0}

STORYBOARD_KEYS = (
    *("scenes", "seed", "negative_prompt", "fps", "frames", "height", "width"),
    *("sampler", "steps", "guidance_scale", "dynamic_guidance", "as_reference", "noise_given"),
    *("guidance_start", "guidance_end", "reuse_uncond", "given_guidance_scale"),
    *("cache_tolerance", "global_prompt", "window", "new_scenes", "anchor", "retries", "checks"),
)
SCENE_KEYS = ("prompt", "video", "negative_prompt", "guidance_scale", "frames", "seed", "cut")


@dataclass(frozen=True)
class StoryScene:
    """One scene. `video` is the clip of a scene that is given, None for one to generate.

    None stands for the story's own value; without a seed of its own, a scene draws by that of the
    story and its place. `cut` asks for a cut between the scene before and this one.
    """

    prompt: str
    video: Path | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    frames: int | None = None
    seed: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class Storyboard:
    """A story to generate. None stands for the model's own default, filled in later.

    `frames` are those of a scene, `height` and `width` pixels, `fps` frames per second.
    `guidance_scale` 1 is no guidance, `dynamic_guidance` lets it grow over the steps.
    `as_reference` samples with the reference's defects (`diffusion.samplers`), `noise_given` gives
    the given scenes the noise of timestep 0, as the reference does when it extends.
    `given_guidance_scale` guides towards the given scenes as such; `guidance_start`,
    `guidance_end`, `reuse_uncond` and `cache_tolerance` save evaluations (`SamplingOptions`).
    `global_prompt` is text that every scene sees; "" is none. `window`, `new_scenes` and `anchor`
    say how a long story is made piece by piece (`stories.windows`). A scene that fails one of the
    `checks` (`stories.gate`; None: no gate, or with `retries` those that suit the model) is drawn
    again up to `retries` times. `places` says where the values were written, for errors that only
    the model brings to light: "story.yaml:3: steps", "--steps".
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
    given_guidance_scale: float | None = None
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    reuse_uncond: int = 1
    cache_tolerance: float = 0.0
    global_prompt: str = ""
    window: int | None = None
    new_scenes: int | None = None
    anchor: bool | None = None
    retries: int = 0
    checks: tuple[str, ...] | None = None
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, name: str) -> str:
        """Where the value of a field such as `scenes[0].prompt` was written, with its name."""
        return self.places.get(name, name)

    @property
    def given(self) -> tuple[bool, ...]:
        return tuple(scene.video is not None for scene in self.scenes)

    def negative_prompt_of(self, scene: int) -> str:
        """The scene's own, or else the story's."""
        own = self.scenes[scene].negative_prompt
        return self.negative_prompt if own is None else own


def read_storyboard(path: Path | str) -> Storyboard:
    """Reads a YAML or JSON storyboard; a relative `video` is looked for in the file's own folder.

    Raises StoryboardError with every problem of the file, and no other exception.
    """
    path = Path(path)
    return _check(parse(read_text(path), str(path)), path.parent, str(path))


def storyboard_from_mapping(
    mapping: Mapping[str, Any], folder: Path | str = ".", source: str = "storyboard"
) -> Storyboard:
    """The storyboard that a file with this content would give.

    `folder` is where a relative `video` is looked for; `source` names the mapping in errors.
    Raises StoryboardError, without line numbers.
    """
    return _check(from_value(mapping), Path(folder), source)


def override(storyboard: Storyboard, **flags: Any) -> Storyboard:
    """The storyboard with the values of those command line flags that are not None.

    Raises StoryboardError, naming the flags, for values that a file could not have either.
    """
    items = {name: Item(value, None) for name, value in flags.items() if value is not None}
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
    scenes = [_scene_to_mapping(scene) for scene in storyboard.scenes]
    mapping = {key: getattr(storyboard, key) for key in STORYBOARD_KEYS} | {"scenes": scenes}
    if storyboard.checks is not None:
        mapping["checks"] = list(storyboard.checks)
    return {key: value for key, value in mapping.items() if value is not None}


def _scene_to_mapping(scene: StoryScene) -> dict[str, Any]:
    video = None if scene.video is None else str(scene.video.absolute())
    mapping = vars(scene) | {"video": video, "cut": scene.cut or None}
    return {key: value for key, value in mapping.items() if value is not None}


def _check(tree: Item, folder: Path, source: str) -> Storyboard:
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

    def storyboard(self, tree: Item) -> Storyboard:
        fields = self.mapping(tree, "", STORYBOARD_KEYS)
        if fields is None:
            return Storyboard(())
        return Storyboard(
            scenes=self.scenes(fields.get("scenes"), tree.line),
            **self.settings(fields),
            places=self.places,
        )

    def settings(self, fields: Mapping[str, Item]) -> dict[str, Any]:
        """All but the scenes; the default for what is not among the fields."""
        return {
            "seed": self.integer(fields.get("seed"), "seed", 0, MAX_SEED) or 0,
            **{
                name: self.text(fields.get(name), name) or ""
                for name in ("negative_prompt", "global_prompt")
            },
            "fps": self.number(fields.get("fps"), "fps", MIN_FPS, MAX_FPS),
            **{
                name: self.integer(fields.get(name), name, 1)
                for name in ("frames", "height", "width", "steps", "window", "new_scenes")
            },
            "sampler": self.choice(fields.get("sampler"), "sampler", SAMPLERS),
            **{
                name: self.number(fields.get(name), name, 0.0)
                for name in ("guidance_scale", "given_guidance_scale")
            },
            **{
                name: self.share(fields.get(name), name, default)
                for name, default in _SHARES.items()
            },
            "reuse_uncond": self.integer(fields.get("reuse_uncond"), "reuse_uncond", 1) or 1,
            **{
                name: self.boolean(fields.get(name), name)
                for name in ("dynamic_guidance", "as_reference", "noise_given")
            },
            # None, which leaves it to the model, is not the same as false.
            "anchor": self.boolean(fields["anchor"], "anchor") if "anchor" in fields else None,
            "retries": self.integer(fields.get("retries"), "retries", 0, MAX_RETRIES) or 0,
            "checks": self.checks(fields.get("checks"), "checks"),
        }

    def share(self, item: Item | None, field: str, default: float) -> float:
        value = self.number(item, field, 0.0, 1.0)
        return default if value is None else value

    def checks(self, item: Item | None, field: str) -> tuple[str, ...] | None:
        if item is None or item.value is None:
            return None
        names = [item.value] if isinstance(item.value, str) else item.value
        found = [name.value if isinstance(name, Item) else name for name in names or [""]]
        if not isinstance(names, list) or any(name not in CHECKS for name in found):
            self.wrong(item, field, f"one or a list of {', '.join(CHECKS)}")
            return None
        return tuple(name for name in CHECKS if name in found)

    def scenes(self, item: Item | None, parent_line: int | None) -> tuple[StoryScene, ...]:
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

    def scene(self, item: Item, field: str) -> StoryScene:
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
        return StoryScene(
            text.strip(),
            self.video(fields.get("video"), f"{field}.video"),
            self.text(fields.get("negative_prompt"), f"{field}.negative_prompt"),
            self.number(fields.get("guidance_scale"), f"{field}.guidance_scale", 0.0),
            self.integer(fields.get("frames"), f"{field}.frames", 1),
            self.integer(fields.get("seed"), f"{field}.seed", 0, MAX_SEED),
            self.boolean(fields.get("cut"), f"{field}.cut"),
        )

    def video(self, item: Item | None, field: str) -> Path | None:
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

    def mapping(self, item: Item, field: str, keys: tuple[str, ...]) -> dict[str, Item] | None:
        """The known keys' items by name; None when the item is no mapping at all."""
        if not isinstance(item.value, tuple):
            self.wrong(item, field, f"a mapping with the keys {', '.join(keys)}")
            return None
        fields: dict[str, Item] = {}
        first_line: dict[str, int | None] = {}
        for key, value in item.value:
            name = key.value
            if not isinstance(name, str) or name not in keys:
                self.problem(key.line, field, f"unknown key {shown(name)}, {_nearest(name, keys)}")
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

    def text(self, item: Item | None, field: str) -> str | None:
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

    def choice(self, item: Item | None, field: str, names: tuple[str, ...]) -> str | None:
        if item is None or item.value is None:
            return None
        if item.value not in names:
            self.wrong(item, field, f"one of {', '.join(names)}")
            return None
        return item.value

    def boolean(self, item: Item | None, field: str) -> bool:
        if item is None or item.value is None:
            return False
        if not isinstance(item.value, bool):
            self.wrong(item, field, "true or false")
            return False
        return item.value

    def integer(
        self, item: Item | None, field: str, least: int, most: int | None = None
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
        self, item: Item | None, field: str, least: float, most: float | None = None
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

    def wrong(self, item: Item, field: str, needed: str) -> None:
        self.problem(item.line, field, f"found {shown(item.value)}, needs {needed}")

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
