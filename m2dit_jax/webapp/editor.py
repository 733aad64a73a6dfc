"""The scenes of the form in Gradio: a card each, drawn anew when scenes come, go or move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from m2dit_jax.utils.disks import in_words
from m2dit_jax.webapp import edits
from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS, Form, SceneForm, filled_in
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.fields import component, scene_field
from m2dit_jax.webapp.view import clip_view, problem_list

_QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass
class Cards:
    """Components of all scenes' cards: the fields, in the order of `filled_in`, and the rest."""

    fields: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)  # the part of each card that opens
    crops: list[tuple[int, Any, Any]] = field(default_factory=list)  # scene, slider, its picture
    uploads: list[tuple[int, Any]] = field(default_factory=list)
    buttons: list[tuple[Any, Callable[[Form], Form]]] = field(default_factory=list)


def draw_cards(desk: Desk, form: Form) -> Cards:
    """The cards of the form's scenes, and the button below them."""
    cards = Cards()
    for scene, each in enumerate(form.scenes):
        with gr.Group(elem_classes=["scene", *(["locked"] if each.locked else [])]):
            _draw_card(cards, desk, form, scene, each)
    add = component(gr.Button, "Add a scene", elem_id="add-scene")
    cards.buttons.append((add, lambda form: edits.add_scene(form, len(form.scenes))))
    return cards


def _draw_card(cards: Cards, desk: Desk, form: Form, scene: int, each: SceneForm) -> None:
    number = scene + 1
    prompt, *others = SCENE_FIELDS
    cards.fields.append(scene_field(prompt, each.values.get(prompt), number, each.locked))
    if each.clip is not None:
        _draw_clip(cards, desk, form, scene, each.clip)
    with gr.Row(elem_classes="buttons"):
        if each.clip is not None:
            _button(cards, "Not given", number, partial(edits.give_clip, scene=scene, clip=None))
        else:
            _button(cards, "Unlock" if each.locked else "Lock", number, _at(edits.lock, scene))
            if len(form.scenes) > 1:
                _button(cards, "Lock the others", number, _at(edits.lock_others, scene))
            another = partial(edits.take, scene=scene, number=each.take + 1)
            _button(cards, "Another take", number, another)
            if each.take:
                before = partial(edits.take, scene=scene, number=each.take - 1)
                _button(cards, f"Back to take {each.take - 1}", number, before)
        if scene:
            _button(cards, "Up", number, _at(edits.move_up, scene))
        if number < len(form.scenes):
            _button(cards, "Down", number, _at(edits.move_down, scene))
        _button(cards, "Duplicate", number, _at(edits.duplicate, scene))
        _button(cards, "Remove", number, _at(edits.remove, scene))
        if each.clip is None and not each.locked:
            options: dict[str, Any] = {"file_types": ["video"], "type": "filepath"}
            upload = component(gr.UploadButton, "Give a clip", size="sm", min_width=0, **options)
            cards.uploads.append((scene, upload))
    with gr.Accordion(f"Settings of scene {number}", open=False) as more:
        cards.fields += [
            scene_field(name, each.values.get(name), number, each.locked) for name in others
        ]
    cards.more.append(more)


def _draw_clip(cards: Cards, desk: Desk, form: Form, scene: int, clip: Path) -> None:
    crop = form.scenes[scene].values.get("crop")
    crop = 0.5 if crop is None else crop
    picture = gr.HTML(clip_view(clip, picture_size(desk, form), crop))
    slider = component(
        gr.Slider,
        *(0, 1, crop),
        step=0.01,
        label="Part of the clip",
        info="The frame on the clip shows what is kept: 0 is the left or the top.",
        elem_id=f"scene-{scene + 1}-crop",
    )
    cards.crops.append((scene, slider, picture))


def picture_size(desk: Desk, form: Form) -> tuple[int, int]:
    """Height and width of the story's pictures, as far as the form has them."""
    defaults = desk.model.defaults
    sizes = (form.settings.get(name) or getattr(defaults, name) for name in ("height", "width"))
    height, width = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
    return height, width


def connect_cards(
    cards: Cards, desk: Desk, form: Form, board: gr.State, settings: list[Any], messages: gr.HTML
) -> None:
    """Connects the cards' buttons, clips and sliders with the board that the page shows."""
    inputs = [*settings, *cards.fields]

    def filled(values: tuple[Any, ...]) -> Form:
        return filled_in(form, values[: len(STORY_FIELDS)], values[len(STORY_FIELDS) :])

    def edit(change: Callable[[Form], Form], *values: Any) -> Form:
        return change(filled(values))

    def attach(scene: int, uploaded: str, *values: Any) -> tuple[Any, str]:
        try:
            clip = desk.shelf.keep_clip(Path(uploaded))
        except (ValueError, OSError) as error:
            line = f"Scene {scene + 1}, clip: {in_words(error) or error}"
            return gr.skip(), problem_list([line])
        return edits.give_clip(filled(values), scene, clip), ""

    def show_crop(scene: int, crop: float, *values: Any) -> str:
        clip = form.scenes[scene].clip
        assert clip is not None
        return clip_view(clip, picture_size(desk, filled(values)), crop)

    for button, change in cards.buttons:
        button.click(partial(edit, change), inputs, board, **_QUIET)
    for scene, upload in cards.uploads:
        upload.upload(partial(attach, scene), [upload, *inputs], [board, messages])
    for scene, slider, picture in cards.crops:
        slider.input(
            partial(show_crop, scene),
            [slider, *inputs],
            picture,
            trigger_mode="always_last",
            **_QUIET,
        )


def _button(cards: Cards, text: str, number: int, change: Callable[[Form], Form]) -> None:
    name = text.lower().replace(" ", "-")
    button = component(gr.Button, text, size="sm", min_width=0, elem_id=f"scene-{number}-{name}")
    cards.buttons.append((button, change))


def _at(edit: edits.Edit, scene: int) -> Callable[[Form], Form]:
    return lambda form: edit(form, scene)
