"""Inputs of a scene: all that its latents depend on, and the key that follows.

A scene that is given to another counts by its key, so that a change goes on to all that was made
from it, and to nothing else.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.windows import Group
from m2dit_jax.utils.options import Affects, declared

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Identity:
    """The inputs of a scene, as JSON can have them, and their SHA-256."""

    key: str
    inputs: Inputs

    @classmethod
    def from_inputs(cls, inputs: Inputs) -> "Identity":
        """The inputs with their key."""
        return cls(hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(), inputs)


def text_key(model: str, prompt: str) -> str:
    """Key of a prompt's embeddings."""
    return Identity.from_inputs({"model": model, "prompt": prompt}).key


def clip_identity(plan: StoryPlan, model: str, scene: int) -> Identity:
    """Identity of a given scene."""
    return Identity.from_inputs(
        {
            "model": model,
            "size": [plan.frames(scene), plan.settings.height, plan.settings.width],
            "clip": plan.clip_digests[scene],
            "seed": plan.seed(scene),  # the latents are drawn from a posterior
        }
    )


def picture_identity(plan: StoryPlan, model: str, scene: int) -> Identity:
    """Identity of the picture that a scene begins with."""
    size = [plan.frames(scene), plan.settings.height, plan.settings.width]
    return Identity.from_inputs(
        {
            "model": model,
            "size": size,
            "image": plan.clip_digests[scene],
            "seed": plan.seed(scene),  # the latents are drawn from a posterior
        }
    )


def scene_identity(
    plan: StoryPlan,
    model: str,
    group: Group,
    known: Mapping[int, str],
    attempts: Mapping[int, int],
    scene: int,
) -> Identity:
    """Identity of a scene that is generated as one of the group.

    `known` has the keys of its context. Scenes are numbered from 1 in it, as users see them.
    """
    return Identity.from_inputs(
        {
            "model": model,
            "scene": scene + 1,
            **story_inputs(plan.settings),
            "beside": [
                scene_inputs(
                    plan, number, known[number] if number in group.context else None, attempts
                )
                for number in group.scenes
            ],
        }
    )


def story_inputs(settings: StoryOptions) -> dict[str, Any]:
    """Settings of the story that its latents depend on."""
    fields = declared(StoryOptions)
    values = {name: getattr(settings, name) for name in _names("latents")}
    return {
        name: value
        for name, value in values.items()
        if not (fields[name].later and value == fields[name].default)
    }


def _names(affects: Affects) -> list[str]:
    fields = declared(StoryOptions).values()
    return [field.name for field in fields if field.affects == affects]


def scene_inputs(
    plan: StoryPlan, number: int, key: str | None, attempts: Mapping[int, int]
) -> dict[str, Any]:
    """Inputs that a scene of a group brings in, itself among those that it is generated with.

    `key` is that of a scene which is given, None for one that is generated.
    """
    inputs = {
        "scene": number + 1,
        "prompt": plan.storyboard.scenes[number].prompt,
        **{name: plan.setting(name, number) for name in _names("scene") if name != "seed"},
    }
    if plan.storyboard.scenes[number].first_frame:
        inputs["image"] = plan.clip_digests[number]
    if lora := plan.lora(number):
        inputs["lora"] = [plan.lora_digests[choice] for choice in lora]
    # Takes came when there were stories already, whose scenes all are the first.
    seed = {"seed": plan.seed(number)} | ({"take": take} if (take := plan.take(number)) else {})
    if key is None:
        return inputs | seed | {"attempt": attempts.get(number, 0)}
    # By the seed noise is drawn, which a given scene has none of, unless it is asked for.
    return inputs | {"given": key} | (seed if plan.settings.noise_given else {})


def changes(old: Inputs, new: Inputs) -> list[str]:
    """Why a scene with the new inputs is not the one with the old ones."""
    if "clip" in old or "clip" in new:
        return ["it was given before" if "clip" in old else "it was generated before"]
    reasons = _story_changes(old, new)
    before = {scene["scene"]: scene for scene in old["beside"]}
    after = {scene["scene"]: scene for scene in new["beside"]}
    if before.keys() != after.keys():
        reasons.append(f"made beside scenes {_change(sorted(before), sorted(after))}")
    for number in before.keys() & after.keys():
        reasons += _scene_changes(before[number], after[number], own=number == new["scene"])
    return reasons


def own_inputs(inputs: Inputs) -> Inputs:
    """What a generated scene brought in itself: its prompt, its seed, its settings."""
    return next(scene for scene in inputs["beside"] if scene["scene"] == inputs["scene"])


def own_changes(plan: StoryPlan, model: str, scene: int, inputs: Inputs) -> list[str]:
    """Why a scene with these inputs is not as the plan has it, whatever becomes of others."""
    own = own_inputs(inputs)
    now = scene_inputs(plan, scene, None, {scene: own["attempt"]}) | {"scene": own["scene"]}
    story = {"model": model, **story_inputs(plan.settings)}
    return [*_story_changes(inputs, story), *_scene_changes(own, now, own=True)]


def _story_changes(old: Inputs, new: Inputs) -> list[str]:
    return [
        "the model is another"
        if name == "model"
        else f"{name}: {_change(_setting(old, name), _setting(new, name))}"
        for name in {**new, **old}
        if name not in ("beside", "scene") and _setting(old, name) != _setting(new, name)
    ]


def _setting(inputs: Inputs, name: str) -> Any:
    """A value of the story; that of an option which is left out is its default."""
    field = declared(StoryOptions).get(name)
    return inputs.get(name, field.default if field and field.later else None)


def _scene_changes(old: Inputs, new: Inputs, own: bool) -> list[str]:
    whose = "its" if own else f"scene {new['scene']}'s"
    reasons, names = [], old.keys() | new.keys()
    if ("given" in old) != ("given" in new):
        how = ("given to", "made with") if "given" in new else ("made with", "given to")
        reasons.append(f"scene {new['scene']} is {how[0]} it now, and was {how[1]} it before")
        names -= {"given", "seed", "take", "attempt"}  # one of the two has none of these
    for name in sorted(names):
        if old.get(name) == new.get(name):
            continue
        if name == "take":
            reasons.append(f"{whose} take: {_change(old.get(name, 0), new.get(name, 0))}")
        elif name == "given":
            reasons.append(f"scene {new['scene']}, which is given to it, is another")
        elif name == "attempt" and new[name] > old[name]:
            reasons.append(f"{whose} attempt {old[name]} failed")
        elif name in ("image", "lora"):  # of which the inputs have hashes
            was, now = ("none" if x.get(name) is None else "one" for x in (old, new))
            reasons.append(f"{whose} {name}: {'another' if was == now else f'{was} -> {now}'}")
        else:
            reasons.append(f"{whose} {name}: {_change(old.get(name), new.get(name))}")
    return reasons


def _change(old: Any, new: Any) -> str:
    return f"{old!r} -> {new!r}"
