"""The page's fields, made from the declarations of a story's options."""

from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Scene
from m2dit_jax.utils.options import OptionField, declared
from m2dit_jax.webapp.board import STORY_FIELDS, SceneForm
from m2dit_jax.webapp.model import AppModel

# At the top of a story's settings; the others are below these, in the order of their declaration.
MAIN_FIELDS = (
    *("global_prompt", "negative_prompt", "seed", "steps", "guidance_scale", "sampler"),
    *("frames", "fps", "height", "width"),
)
MORE_FIELDS = tuple(name for name in STORY_FIELDS if name not in MAIN_FIELDS)
_LONGEST_SLIDER = 1.0  # of a range; a wider one is a number


def component(kind: Any, *values: Any, **options: Any) -> Any:
    """A component that takes input, whatever events it is part of."""
    # Left unset, Gradio decides: it locks what an event fills in, and what is rendered again.
    return kind(*values, **({"interactive": True} | options))


def story_field(name: str, model: AppModel) -> Any:
    """The field of a story's setting, filled with the model's default."""
    option = declared(StoryOptions)[name]
    return _field(
        option,
        story_value(name, model),
        info=story_info(name, model),
        visible=not (
            (name == "global_prompt" and not model.global_text)
            or (name in ("height", "width") and model.fixed_size)
        ),
        elem_id=f"story-{name}",
        nothing="none",
    )


def story_value(name: str, model: AppModel, value: Any = None) -> Any:
    """What a story's field shows: its own value, or the model's default."""
    value = getattr(model.defaults, name) if value is None else value
    option = declared(StoryOptions)[name]
    if option.choices:
        return list(value or ()) if option.many else value or ""
    return value


def story_info(name: str, model: AppModel) -> str:
    """The line below a story's field, with what the model can do."""
    text = declared(StoryOptions)[name].description
    if name == "frames":
        possible = model.frames
        step = "" if possible.step == 1 else f" in steps of {possible.step}"
        return f"{text} This model: {possible[0]} to {possible[-1]}{step}."
    if name == "steps":
        return f"{text} This model: up to {model.timesteps}."
    return text


def scene_field(name: str, scene: SceneForm, number: int) -> Any:
    """A field of the scene with this number, from 1.

    A locked scene's prompt stays as it is; only a clip or a picture has a part to choose.
    """
    option, value = declared(Scene)[name], scene.values.get(name)
    options: dict[str, Any] = {"elem_id": f"scene-{number}-{name}"}
    if name == "prompt":
        state = [f"take {scene.take}"] * bool(scene.take) + ["locked"] * scene.locked
        options |= {"label": ", ".join([f"Scene {number}", *state]), "lines": 2}
        shows = "what the picture shows" if scene.is_reference else "what the scene shows"
        options |= {"placeholder": shows, "interactive": not scene.locked}
    if name == "crop":
        kind = "clip" if scene.image is None else "picture"
        options |= {"label": f"part of the {kind}"}
        options |= {"visible": scene.clip is not None or scene.image is not None}
        value = option.default if value is None else value
    return _field(option, value, info=scene_info(name), nothing="the story's", **options)


def scene_info(name: str) -> str | None:
    """The line below a scene's field."""
    return None if name == "prompt" else declared(Scene)[name].description


def _field(option: OptionField, value: Any, nothing: str, **options: Any) -> Any:
    options = {"label": option.name.replace("_", " "), **options}
    if option.choices and option.many:
        return component(gr.CheckboxGroup, option.choices, value=value or [], **options)
    if option.choices:
        choices = [(choice, choice) for choice in option.choices]
        choices = choices if option.default else [(nothing, ""), *choices]
        return component(gr.Dropdown, choices, value=value or "", **options)
    if option.kind is bool:
        return component(gr.Checkbox, value=bool(value), **options)
    if option.kind not in (int, float) or option.default is None:  # a number is never empty
        value = "" if value is None else str(value)
        return component(gr.Textbox, value=value, **({"placeholder": nothing} | options))
    least, most = option.least, option.most
    if option.kind is float and most is not None and most - (least or 0) <= _LONGEST_SLIDER:
        return component(gr.Slider, least, most, value=value, step=0.01, **options)
    # Without bounds here: Gradio's message would stand in a corner and the draft be lost.
    step = 1 if option.kind is int else 0.1
    return component(gr.Number, value=value, step=step, placeholder=nothing, **options)
