"""The scenes of the form in Gradio: a card each, drawn anew when scenes come, go or move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr  # pyright: ignore[reportMissingImports]

from m2dit_jax.utils.disks import in_words
from m2dit_jax.webapp import edits
from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS, Form, SceneForm, filled_in
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.fields import component, scene_field
from m2dit_jax.webapp.view import given_view

_QUIET: dict[str, Any] = {"show_progress": "hidden"}
_SMALL: dict[str, Any] = {"size": "sm", "min_width": 0}
Change = Callable[[Form], Form]
Give = Callable[[Form, Path], Form]


class Upload(NamedTuple):
    """A button that takes a file: what is said of a bad one, how it is kept, what it then does."""

    button: Any
    place: str
    keep: Callable[[Path], Path]
    give: Give


class BoardKept(NamedTuple):
    """How a board that has changed is kept: `keep` and `refuse` give the updates of `outputs`.

    `keep` gets the values of `inputs`, the story's name and the page's number, and the board.
    """

    inputs: list[Any]
    outputs: list[Any]
    keep: Callable[[str | None, int, Form], tuple[Any, ...]]
    refuse: Callable[[str], tuple[Any, ...]]


@dataclass
class Cards:
    """Components of all scenes' cards: the fields, in the order of `filled_in`, and the rest."""

    fields: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)  # the part of each card that opens
    given: list[tuple[int, Any]] = field(default_factory=list)  # scene, its clip or picture
    uploads: list[Upload] = field(default_factory=list)
    buttons: list[tuple[Any, Change]] = field(default_factory=list)


def draw_cards(desk: Desk, form: Form) -> Cards:
    """The cards of the form's scenes, and the button below them."""
    cards = Cards()
    for scene, each in enumerate(form.scenes):
        with gr.Group(elem_classes=["scene", *(["locked"] if each.locked else [])]):
            _draw_card(cards, desk, form, scene, each)
    add = component(gr.Button, "Add a scene", elem_id="add-scene")
    cards.buttons.append((add, lambda form: edits.add_scene(form, len(form.scenes))))
    reference = _upload_button("Add a reference picture", "image", elem_id="add-reference")
    place, keep = "Reference picture", desk.shelf.keep_picture
    cards.uploads.append(Upload(reference, place, keep, edits.add_reference))
    return cards


def _draw_card(cards: Cards, desk: Desk, form: Form, scene: int, each: SceneForm) -> None:
    number = scene + 1

    def draw(name: str) -> None:
        cards.fields.append(scene_field(name, each, number))

    prompt, crop, *others = SCENE_FIELDS
    draw(prompt)
    if each.clip or each.image:
        shown = given_view(each, picture_size(desk, form))
        cards.given.append((scene, gr.HTML(shown)))
    draw(crop)
    with gr.Row(elem_classes="buttons"):
        for text, change in _changes(form, scene, each).items():
            name = f"scene-{number}-{text.lower().replace(' ', '-')}"
            button = component(gr.Button, text, elem_id=name, **_SMALL)
            cards.buttons.append((button, change))
        if not (each.clip or each.image or each.locked):
            cards.uploads += _uploads(desk, scene)
    with gr.Accordion(f"Settings of scene {number}", open=False) as more:
        for name in others:
            draw(name)
    cards.more.append(more)


def _uploads(desk: Desk, scene: int) -> list[Upload]:
    """The buttons by which a scene gets a clip or a picture."""

    def give_clip(form: Form, file: Path) -> Form:
        return edits.give_clip(form, scene, file)

    def give_picture(form: Form, file: Path) -> Form:
        return edits.give_picture(form, scene, file)

    clip, picture = (
        _upload_button(f"Give a {word}", kind, **_SMALL)
        for word, kind in (("clip", "video"), ("first frame", "image"))
    )
    place = f"Scene {scene + 1}"
    return [
        Upload(clip, f"{place}, clip", desk.shelf.keep_clip, give_clip),
        Upload(picture, f"{place}, picture", desk.shelf.keep_picture, give_picture),
    ]


def _upload_button(text: str, kind: str, **options: Any) -> Any:
    return component(gr.UploadButton, text, file_types=[kind], type="filepath", **options)


def _changes(form: Form, scene: int, each: SceneForm) -> dict[str, Change]:
    """What a scene's buttons do, by the text on them."""

    def at(edit: Callable[..., Form], **more: Any) -> Change:
        return lambda form: edit(form, scene, **more)

    changes: dict[str, Change] = {}
    if each.clip or each.image:
        changes["Not given" if each.clip else "No picture"] = at(edits.give_clip, clip=None)
    if each.is_reference:
        changes["Begin with it"] = at(edits.use_picture, use="first_frame")
    elif each.image and edits.count_references(form) == scene:
        changes["Use as a reference"] = at(edits.use_picture, use="reference")
    if not each.given:
        changes["Unlock" if each.locked else "Lock"] = at(edits.lock)
        if len(form.scenes) > 1:
            changes["Lock the others"] = at(edits.lock_others)
        changes["Another take"] = at(edits.take, number=each.take + 1)
        if each.take:
            changes[f"Back to take {each.take - 1}"] = at(edits.take, number=each.take - 1)
    if scene:
        changes["Up"] = at(edits.move_up)
    if scene + 1 < len(form.scenes):
        changes["Down"] = at(edits.move_down)
    return changes | {"Duplicate": at(edits.duplicate), "Remove": at(edits.remove)}


def picture_size(desk: Desk, form: Form) -> tuple[int, int]:
    """Height and width of the story's pictures, as far as the form has them."""
    defaults = desk.model.defaults
    sizes = (form.settings.get(name) or getattr(defaults, name) for name in ("height", "width"))
    height, width = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
    return height, width


def connect_cards(
    cards: Cards, desk: Desk, form: Form, settings: list[Any], kept: BoardKept
) -> None:
    """Connects the cards' buttons and uploads with what they change.

    All in one event: cards that are drawn anew take the events with them that were to come after.
    """
    inputs = [*kept.inputs, *settings, *cards.fields]

    def filled(values: tuple[Any, ...]) -> Form:
        return filled_in(form, values[: len(STORY_FIELDS)], values[len(STORY_FIELDS) :])

    def edit(change: Change, name: str | None, page: int, *values: Any) -> tuple[Any, ...]:
        return kept.keep(name, page, change(filled(values)))

    def attach(
        upload: Upload, uploaded: str, name: str | None, page: int, *values: Any
    ) -> tuple[Any, ...]:
        try:
            file = upload.keep(Path(uploaded))
        except (ValueError, OSError) as error:
            return kept.refuse(f"{upload.place}: {in_words(error) or error}")
        return kept.keep(name, page, upload.give(filled(values), file))

    def show_given(*values: Any) -> Any:
        now = filled(values)
        size = picture_size(desk, now)
        views = [given_view(now.scenes[scene], size) for scene, _ in cards.given]
        return views if len(views) > 1 else views[0]

    for button, change in cards.buttons:
        button.click(partial(edit, change), inputs, kept.outputs, **_QUIET)
    for upload in cards.uploads:
        upload.button.upload(partial(attach, upload), [upload.button, *inputs], kept.outputs)
    if cards.given:
        crop = SCENE_FIELDS.index("crop")
        sliders = [cards.fields[scene * len(SCENE_FIELDS) + crop] for scene, _ in cards.given]
        sizes = [settings[STORY_FIELDS.index(name)] for name in ("height", "width")]
        gr.on(
            [slider.input for slider in sliders] + [size.input for size in sizes],
            show_given,
            [*settings, *cards.fields],
            [view for _, view in cards.given],
            trigger_mode="always_last",
            **_QUIET,
        )
