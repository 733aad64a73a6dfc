"""What the buttons of a scene do to the form: other forms, made from the one that is shown."""

from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from m2dit_jax.webapp.board import Form, SceneForm

Edit = Callable[[Form, int], Form]


def add_scene(form: Form, place: int) -> Form:
    """The form with an empty scene before this place."""
    return replace(form, scenes=(*form.scenes[:place], SceneForm(), *form.scenes[place:]))


def remove(form: Form, scene: int) -> Form:
    """The form without a scene; an empty one stays where it was the last."""
    rest = (*form.scenes[:scene], *form.scenes[scene + 1 :])
    return replace(form, scenes=rest or (SceneForm(),))


def move_up(form: Form, scene: int) -> Form:
    """The form with a scene before its neighbour; the first stays."""
    return form if scene == 0 else _swapped(form, scene - 1)


def move_down(form: Form, scene: int) -> Form:
    """The form with a scene after its neighbour; the last stays."""
    return form if scene + 1 == len(form.scenes) else _swapped(form, scene)


def duplicate(form: Form, scene: int) -> Form:
    """The form with a copy of a scene after it, which is not locked: it was never made."""
    copy = form.scenes[scene].filled(keep=False, take=0)
    return replace(form, scenes=(*form.scenes[: scene + 1], copy, *form.scenes[scene + 1 :]))


def lock(form: Form, scene: int) -> Form:
    """The form with a scene locked, or unlocked if it was."""
    return _changed(form, scene, form.scenes[scene].filled(keep=not form.scenes[scene].locked))


def lock_others(form: Form, scene: int) -> Form:
    """The form in which all scenes but one, and but given ones, are locked."""
    return replace(
        form,
        scenes=tuple(
            each if each.given else each.filled(keep=number != scene)
            for number, each in enumerate(form.scenes)
        ),
    )


def take(form: Form, scene: int, number: int) -> Form:
    """The form with a take of a scene, to be made if it was not; it cannot stay locked."""
    return _changed(form, scene, form.scenes[scene].filled(take=number, keep=False))


def give_clip(form: Form, scene: int, clip: Path | None) -> Form:
    """The form with a clip for a scene, or none; it then is neither locked nor another take."""
    values = {"crop": None, "keep": False, "take": 0, "use": None}
    changed = replace(form.scenes[scene].filled(**values), clip=clip, image=None)
    return _changed(form, scene, changed)


def give_picture(form: Form, scene: int, image: Path) -> Form:
    """The form with a picture that a scene begins with."""
    changed = give_clip(form, scene, None).scenes[scene].filled(use="first_frame")
    return _changed(form, scene, replace(changed, image=image))


def use_picture(form: Form, scene: int, use: str) -> Form:
    """The form with a scene's picture used otherwise; it then is neither locked nor a take."""
    return _changed(form, scene, form.scenes[scene].filled(use=use, keep=False, take=0))


def add_reference(form: Form, image: Path) -> Form:
    """The form with a picture that all scenes see, after the others of that kind."""
    place = count_references(form)
    scene = SceneForm({"use": "reference"}, image=image)
    return replace(form, scenes=(*form.scenes[:place], scene, *form.scenes[place:]))


def count_references(form: Form) -> int:
    """How many scenes at the beginning are references: no other place is theirs."""
    return len(list(takewhile(lambda scene: scene.is_reference, form.scenes)))


def _changed(form: Form, scene: int, changed: SceneForm) -> Form:
    return replace(form, scenes=(*form.scenes[:scene], changed, *form.scenes[scene + 1 :]))


def _swapped(form: Form, first: int) -> Form:
    a, b = form.scenes[first : first + 2]
    return replace(form, scenes=(*form.scenes[:first], b, a, *form.scenes[first + 2 :]))
