"""What the scenes of a folder were made of, build after build: build.json.

scenes    the inputs of each scene of the last build, by its number from 1
earlier   those of generated scenes of builds before it, the oldest first; older files lack it
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from m2dit_jax.stories.inputs import Identity, Inputs, own_inputs
from m2dit_jax.utils.files import read_json, write_json

BUILD = "build.json"

History = Mapping[int, Sequence[Inputs]]  # of generated scenes by place, the last build's first


def write_build(folder: Path, inputs: Mapping[int, Inputs]) -> None:
    """Writes what each scene depends on, for the next build to compare; older builds' stay too."""
    scenes = {scene: inputs[scene] for scene in sorted(inputs)}
    earlier = {
        place: [old for old in reversed(versions) if old != scenes.get(place)]
        for place, versions in sorted(read_history(folder).items())
    }
    content = {"scenes": _by_number(scenes)}
    if any(earlier.values()):
        content["earlier"] = _by_number(
            {n: versions for n, versions in earlier.items() if versions}
        )
    write_json(folder / BUILD, content)


def read_build(folder: Path) -> dict[int, Inputs]:
    """Inputs of the last build by scene, from 0; empty if they cannot be read."""
    try:
        return _by_place(read_json(folder / BUILD)["scenes"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def read_history(folder: Path) -> History:
    """Inputs of every version of the generated scenes, newest first; empty if unreadable."""
    history = {scene: [inputs] for scene, inputs in read_build(folder).items()}
    try:
        earlier = _by_place(read_json(folder / BUILD).get("earlier", {}))
        for scene, versions in earlier.items():
            history.setdefault(scene, []).extend(reversed(versions))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {scene: list(filter(_is_version, versions)) for scene, versions in history.items()}


def read_takes(folder: Path, scene: int, prompt: str) -> dict[int, str]:
    """Key of each take of the scene at this place, from 0, with this prompt: of the newest one."""
    takes: dict[int, str] = {}
    for inputs in read_history(folder).get(scene, ()):
        own = own_inputs(inputs)
        if own["prompt"] == prompt:
            takes.setdefault(own.get("take", 0), Identity.from_inputs(inputs).key)
    return dict(sorted(takes.items()))


def _by_number(scenes: Mapping[int, object]) -> dict[str, object]:
    return {str(place + 1): value for place, value in scenes.items()}


def _by_place(scenes: Mapping[str, object]) -> dict:
    return {int(number) - 1: value for number, value in scenes.items()}


_STORY = {"model", "scene", "height", "width"}
_OWN = {"prompt", "frames", "guidance_scale", "negative_prompt", "seed", "attempt"}


def _is_version(inputs: object) -> bool:
    """Whether these are the inputs of a generated scene, with what is asked for here and later."""
    try:
        return inputs.keys() >= _STORY and own_inputs(inputs).keys() >= _OWN  # pyright: ignore
    except (TypeError, AttributeError, LookupError, StopIteration):
        return False
