"""Scenes that stand before anything is made: those with `keep`, and others that are as they were.

In a story without `keep` none stands: there the way through the story itself finds what is made.
With it that way is another one, as later scenes are given to earlier ones, and scenes of which
nothing has changed would be made anew. So every scene stands of which a version is there whose
inputs all are as they were: the settings, its own prompt and numbers, those of scenes that it was
made with, and the keys of those that were given to it.
"""

from collections.abc import Callable, Iterator

from m2dit_jax.stories.history import History
from m2dit_jax.stories.inputs import (
    Identity,
    Inputs,
    clip_identity,
    own_changes,
    own_inputs,
    scene_inputs,
    story_inputs,
)
from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.walk import Outcome
from m2dit_jax.stories.windows import Group
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.options import problem_lines

IsThere = Callable[[str], bool]  # whether the store has latents of this key


def standing_scenes(
    plan: StoryPlan, model: str, history: History, is_there: IsThere
) -> dict[int, Outcome]:
    """The scenes that stand, by place from 0; none in a story without `keep`.

    Raises StoryboardError, naming every scene, if one that is to be kept was never made, or cannot
    be given to this model.
    """
    kept: dict[int, Identity] = {}
    problems = []
    for place, scene in enumerate(plan.storyboard.scenes):
        if scene.keep:
            try:
                kept[place] = _kept(plan, model, history, is_there, place)
            except ValueError as error:
                field = plan.storyboard.place(f"scenes[{place}].keep")
                problems.append(f"{field}: found true, {error}")
    if problems:
        raise StoryboardError(problem_lines(problems))
    if not kept:
        return {}
    found = _unchanged(plan, model, history, is_there, kept)
    return {
        place: Outcome("kept" if place in kept else "reused", identity, made_in(identity.inputs))
        for place, identity in sorted(found.items())
    }


def made_in(inputs: Inputs) -> Group:
    """The group that a generated scene was made in, by its inputs."""
    given = tuple(scene["scene"] - 1 for scene in inputs["beside"] if "given" in scene)
    new = tuple(scene["scene"] - 1 for scene in inputs["beside"] if "given" not in scene)
    return Group(new, given)


def _kept(plan: StoryPlan, model: str, history: History, is_there: IsThere, place: int) -> Identity:
    """The version of a scene that is kept. Raises ValueError if there is none."""
    prompt, take = plan.storyboard.scenes[place].prompt, plan.take(place)
    of_prompt = [inputs for inputs in _versions(history, place) if _own(inputs, "prompt") == prompt]
    found = [inputs for inputs in of_prompt if _own(inputs, "take") == take]
    if not found:
        takes = sorted({_own(inputs, "take") for inputs in of_prompt})
        there = f"takes {', '.join(map(str, takes))} of it" if takes else "none with its prompt"
        raise ValueError(
            f"but take {take} of this scene was never made in this folder ({there}); needs false, "
            "or the prompt and take it was made with"
        )
    # Sorting keeps the order of equals: this place's versions, the newest ones, come first.
    found.sort(key=lambda inputs: bool(own_changes(plan, model, place, inputs)))
    if not (of_model := [inputs for inputs in found if inputs["model"] == model]):
        raise ValueError("but it was made by another model; needs its video as a clip, or false")
    size = _size(plan, place)
    if not (of_size := [inputs for inputs in of_model if _made_size(inputs) == size]):
        was, now = _made_size(of_model[0]), size
        raise ValueError(
            f"but it was made with {_size_text(was)}; needs these, found {_size_text(now)}"
        )
    for inputs in of_size:
        identity = Identity.from_inputs(inputs)
        if is_there(identity.key):
            return identity
    raise ValueError("but its file is lost or damaged; needs false, so that it is made anew")


def _versions(history: History, place: int) -> Iterator[Inputs]:
    """All versions of generated scenes: those of this place first, as scenes may have moved."""
    yield from history.get(place, ())
    for other in sorted(history):
        if other != place:
            yield from history[other]


def _unchanged(
    plan: StoryPlan,
    model: str,
    history: History,
    is_there: IsThere,
    kept: dict[int, Identity],
) -> dict[int, Identity]:
    """The kept scenes and all that are as they would be, the inputs of each among the others."""
    clips = {
        place: clip_identity(plan, model, place).key
        for place, given in enumerate(plan.storyboard.given)
        if given
    }
    found, pending = dict(kept), [p for p in history if p not in kept and p not in clips]
    pending = [place for place in pending if place < len(plan.storyboard.scenes)]
    while True:
        keys = clips | {place: identity.key for place, identity in found.items()}
        more = {
            place: identity
            for place in pending
            for identity in map(Identity.from_inputs, reversed(history[place]))
            if _is_as_it_was(plan, model, identity, keys, kept) and is_there(identity.key)
        }
        if not more:
            return found
        found |= more
        pending = [place for place in pending if place not in more]


def _is_as_it_was(
    plan: StoryPlan,
    model: str,
    identity: Identity,
    keys: dict[int, str],
    kept: dict[int, Identity],
) -> bool:
    inputs = identity.inputs
    story = {name: inputs[name] for name in inputs if name not in ("model", "scene", "beside")}
    if inputs["model"] != model or story != story_inputs(plan.settings):
        return False
    for old in inputs["beside"]:
        place, attempts = old["scene"] - 1, {old["scene"] - 1: old.get("attempt", 0)}
        if place >= len(plan.storyboard.scenes):
            return False
        if "given" not in old and plan.storyboard.given[place]:
            return False
        if "given" not in old and place in kept and not _together(kept[place], identity):
            return False
        key = keys.get(place, "") if "given" in old else None
        if old != scene_inputs(plan, place, key, attempts):
            return False
    return True


def _together(kept: Identity, other: Identity) -> bool:
    """Whether a kept scene was made in one run with the other one, or drawn again beside it."""
    if Identity.from_inputs({**other.inputs, "scene": kept.inputs["scene"]}).key == kept.key:
        return True
    beside = {scene["scene"]: scene for scene in kept.inputs["beside"]}
    return beside.get(other.inputs["scene"], {}).get("given") == other.key


def _own(inputs: Inputs, name: str) -> int | str:
    return own_inputs(inputs).get(name, 0)


def _size(plan: StoryPlan, place: int) -> tuple[int, int, int]:
    return plan.frames(place), plan.settings.height, plan.settings.width


def _made_size(inputs: Inputs) -> tuple[int, int, int]:
    return own_inputs(inputs)["frames"], inputs["height"], inputs["width"]


def _size_text(size: tuple[int, int, int]) -> str:
    frames, height, width = size
    return f"{frames} frames of {height} x {width}"
