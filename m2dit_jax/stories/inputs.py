"""What a scene's latents depend on, and the key that follows from it.

A scene that is given to another counts by its key, so that a change goes on to all that was made
from it, and to nothing else.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.windows import Group

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Identity:
    """The inputs of a scene, as JSON can have them, and their SHA-256."""

    key: str
    inputs: Inputs

    @classmethod
    def of(cls, inputs: Inputs) -> "Identity":
        """The key of the inputs."""
        return cls(hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(), inputs)


def text_key(model: str, prompt: str) -> str:
    """Of a prompt's embeddings."""
    return Identity.of({"model": model, "prompt": prompt}).key


def clip_identity(plan: StoryPlan, model: str, scene: int) -> Identity:
    """Of a given scene."""
    return Identity.of(
        {
            "model": model,
            "size": [plan.frames(scene), plan.settings.height, plan.settings.width],
            "clip": plan.clip_digests[scene],
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
    """Of a scene that is generated as one of the group; `known` has the keys of its context.

    Scenes are numbered from 1 in it, as users see them.
    """
    story, settings = plan.storyboard, plan.settings
    return Identity.of(
        {
            "model": model,
            "scene": scene + 1,
            "height": settings.height,
            "width": settings.width,
            **_options(plan, group.scenes),
            "noise_given": story.noise_given,
            "global_prompt": story.global_prompt,
            "beside": [
                _beside(plan, number, known[number] if number in group.context else None, attempts)
                for number in group.scenes
            ],
        }
    )


def _options(plan: StoryPlan, scenes: Sequence[int]) -> dict[str, Any]:
    """Those of sampling; a scale of guidance belongs to each scene."""
    options = asdict(plan.options(scenes))
    del options["guidance_scale"]
    return options


def _beside(
    plan: StoryPlan, number: int, key: str | None, attempts: Mapping[int, int]
) -> dict[str, Any]:
    """A scene of the group, the one in question among them."""
    story = plan.storyboard
    inputs = {
        "scene": number + 1,
        "prompt": story.scenes[number].prompt,
        "negative_prompt": story.negative_prompt_of(number),
        "frames": plan.frames(number),
        "guidance_scale": plan.options([number]).guidance_scale,
    }
    if key is None:
        return inputs | {"seed": plan.seed(number), "attempt": attempts.get(number, 0)}
    return inputs | {"given": key} | ({"seed": plan.seed(number)} if story.noise_given else {})


def changes(old: Inputs, new: Inputs) -> list[str]:
    """Why a scene with the new inputs is not the one with the old ones."""
    if "clip" in old or "clip" in new:
        return ["it was given before" if "clip" in old else "it was generated before"]
    told = [
        "the model is another" if name == "model" else f"{name}: {_told(old.get(name), new[name])}"
        for name in new
        if name != "beside" and old.get(name) != new[name]
    ]
    before = {scene["scene"]: scene for scene in old["beside"]}
    after = {scene["scene"]: scene for scene in new["beside"]}
    if before.keys() != after.keys():
        told.append(f"made beside scenes {_told(sorted(before), sorted(after))}")
    for number in before.keys() & after.keys():
        told += _scene_changes(before[number], after[number], own=number == new["scene"])
    return told


def _scene_changes(old: Inputs, new: Inputs, own: bool) -> list[str]:
    whose = "its" if own else f"scene {new['scene']}'s"
    told = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        if name == "given":
            told.append(f"scene {new['scene']}, which is given to it, is another")
        elif name == "attempt":
            told.append(f"{whose} attempt {old.get(name, 0)} failed")
        else:
            told.append(f"{whose} {name}: {_told(old.get(name), new.get(name))}")
    return told


def _told(old: Any, new: Any) -> str:
    return f"{old!r} -> {new!r}"
