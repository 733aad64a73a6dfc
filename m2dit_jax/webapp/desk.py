"""What the page's buttons and fields do, without Gradio: open, keep, look ahead, make, cancel."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from m2dit_jax.utils.disks import in_words
from m2dit_jax.webapp.board import Form
from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.problems import Problem, read_problems
from m2dit_jax.webapp.runs import Run, Runner
from m2dit_jax.webapp.shelf import Shelf


@dataclass(frozen=True)
class Outlook:
    """What Generate would do: what is wrong, or a line for each scene that says why it is made."""

    problems: tuple[Problem, ...] = ()
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # of what is lost of prompts


@dataclass(frozen=True)
class Opened:
    """A story as the page shows it: its form, the scenes that were made, its run if there is one.

    `fps` is the rate of the videos that were made. `problem` says why the form is not the story's.
    """

    form: Form
    made: tuple[Mapping[str, Any], ...] = ()
    fps: float = 0.0
    run: Run | None = None
    problem: str = ""


class Desk:
    """The actions of all pages that are open; what they do lies on the shelf at once."""

    def __init__(self, shelf: Shelf, runner: Runner, model: AppModel):
        self.shelf = shelf
        self.runner = runner
        self.model = model
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._pages = 0
        self._names: dict[int, str] = {}

    def new_page(self) -> int:
        """A number for a page, or for a new story in one, whose story has no name yet."""
        with self._guard:
            self._pages += 1
            return self._pages

    def example(self, number: int) -> Form:
        """The form of an example story."""
        return Form.from_mapping(self.model.example(number), self.shelf.clips)

    def open(self, name: str) -> Opened:
        """A story with its form as it was last written. Raises ValueError if there is none."""
        folder = self.shelf.folder(name)
        try:
            made, form = self.shelf.storyboard(name), self.shelf.form(name)
        except (ValueError, OSError) as error:
            return Opened(self.example(0), problem=in_words(error) or str(error))
        shown = self.example(0) if form is None else Form.from_mapping(form, self.shelf.clips)
        return Opened(
            shown,
            () if made is None else tuple(made["scenes"]),
            float((made or {}).get("fps", self.model.defaults.fps)),
            self.runner.of(folder),
            "" if form is None else _lost(form, shown),
        )

    def keep(self, name: str | None, page: int, form: Form) -> str:
        """Writes the form as it is, filled in or not; the name of its story, made if need be."""
        draft = form.to_mapping(self.model.defaults)
        with self._writing:  # a field and a button may write the same draft at once
            # Made once, though the page may not know the name yet when the next letter comes.
            name = name or self._names.get(page)
            if name is None:
                name = self._names[page] = self.shelf.new(draft)
            else:
                self.shelf.keep_draft(name, draft)
        return name

    def look_ahead(self, name: str | None, form: Form) -> Outlook:
        """What Generate would do with the form."""
        try:
            storyboard = form.to_storyboard(self.model.defaults)
            # A story that is not begun has no folder: one that cannot be, then, of that name.
            folder = self.shelf.folder(name) if name else self.shelf.output / "new"
            notes, lines = self.model.look_ahead(storyboard, folder)
            return Outlook(lines=tuple(lines), notes=tuple(notes))
        except (ValueError, OSError) as error:
            return Outlook(problems=tuple(read_problems(in_words(error) or str(error))))

    def generate(self, name: str | None, page: int, form: Form) -> tuple[str, Run]:
        """Writes draft and storyboard, and has the story made; its name and run.

        Raises ValueError, StoryboardError among them, and OSError if nothing is made; the draft
        is written all the same.
        """
        name = self.keep(name, page, form)
        storyboard = form.to_storyboard(self.model.defaults)
        keep = partial(self.shelf.keep_form, name, storyboard)
        return name, self.runner.start(storyboard, self.shelf.folder(name), keep)

    def cancel(self, name: str | None) -> None:
        """Cancels the making of a story, if it is being made."""
        if name and (run := self.runner.of(self.shelf.folder(name))):
            run.cancel()


def _lost(mapping: Mapping[str, Any], form: Form) -> str:
    """A line that names what the form lacks of a storyboard from elsewhere; "" if it has all."""
    lost = ["lora"] if mapping.get("lora") else []
    for number, (scene, own) in enumerate(zip(mapping["scenes"], form.scenes, strict=True), 1):
        there = {"video": own.clip, "image": own.image, "lora": None}
        lost += [
            f"{name} of scene {number}" for name in there if scene.get(name) and not there[name]
        ]
    if not lost:
        return ""
    return (
        f"The form lacks {', '.join(lost)}, which the story was made with: Generate makes another "
        "story; clips and pictures can be given here again, adapters by --lora"
    )
