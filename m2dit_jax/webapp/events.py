"""What Gradio is told when something happens on the page: updates of its components."""

from collections.abc import Sequence
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from m2dit_jax.utils.disks import in_words
from m2dit_jax.webapp.board import SCENE_FIELDS, STORY_FIELDS, Form, filled_in
from m2dit_jax.webapp.desk import Desk, Opened
from m2dit_jax.webapp.fields import MORE_FIELDS, scene_info, story_info, story_value
from m2dit_jax.webapp.gallery import gallery_view
from m2dit_jax.webapp.problems import Problem, has_field, read_problems
from m2dit_jax.webapp.runs import Run
from m2dit_jax.webapp.takes import take_videos
from m2dit_jax.webapp.view import (
    finished_view,
    outlook_view,
    problem_list,
    state_view,
    story_view,
)


class PageEvents:
    """The answers to a page's events. `shown` is the form whose cards are drawn there."""

    def __init__(self, desk: Desk):
        self.desk = desk

    # --- a story is opened

    def load(self, request: gr.Request) -> tuple[Any, ...]:
        """The page as its address says: a story, else an example."""
        name = request.query_params.get("story")
        if name in self.desk.shelf.names():
            return self.open(name)
        return self.opened(None, self.desk.example(0))

    def open(self, name: str | None) -> tuple[Any, ...]:
        """The page with a story of that name."""
        if not name:
            return self.opened(None, self.desk.example(0))
        found = self.desk.open(name)
        return self.opened(name, found.form, found)

    def example(self, page: int) -> tuple[Any, ...]:
        """The page with another example, as a new story."""
        return self.opened(None, self.desk.example(page))

    def opened(self, name: str | None, form: Form, found: Opened | None = None) -> tuple[Any, ...]:
        """Updates of `Page.opened`."""
        desk, run = self.desk, found.run if found else None
        view = self._view(name, found) if name and found else ""
        problem = [found.problem] if found and found.problem else []
        settings = [story_value(n, desk.model, form.settings.get(n)) for n in STORY_FIELDS]
        return (
            desk.new_page(),
            gr.Dropdown(desk.shelf.names(), value=name),
            form,
            problem_list(problem),
            self._outlook(name, form),
            state_view(run),
            view,
            view,
            gr.Timer(active=run is not None and not run.ended.is_set()),
            gr.Accordion(open=not view),
            gallery_view(desk.shelf),
            *settings,
        )

    def _view(self, name: str, found: Opened) -> str:
        folder = self.desk.shelf.folder(name)
        if found.run:
            return story_view(found.run, self._takes(found.run))
        if not found.made:
            return ""
        prompts = [scene.get("prompt") or "" for scene in found.made]
        return finished_view(folder, found.made, take_videos(folder, prompts, found.fps))

    # --- it is written

    def keep(self, shown: Form, name: str | None, page: int, *values: Any) -> tuple[Any, str]:
        """Keeps the draft; updates of the story's name and of the messages."""
        return self._keep(name, page, _filled(shown, values))

    def keep_board(self, name: str | None, page: int, board: Form) -> tuple[Any, ...]:
        """The same for the board after a button of a scene, and what Generate would do now."""
        story, messages = self._keep(name, page, board)
        outlook = "" if messages else self._outlook(name, board)
        return board, story, outlook, messages, ()

    def refuse_board(self, problem: str) -> tuple[Any, ...]:
        """The updates of `keep_board` where the board stays as it is, for this reason."""
        return gr.skip(), gr.skip(), gr.skip(), problem_list([problem]), gr.skip()

    def _outlook(self, name: str | None, form: Form) -> str:
        ahead = self.desk.look_ahead(name, form)
        return outlook_view(ahead.problems, ahead.lines, ahead.notes)

    def _keep(self, name: str | None, page: int, form: Form) -> tuple[Any, str]:
        try:
            kept = self.desk.keep(name, page, form)
        except (ValueError, OSError) as error:
            return gr.skip(), problem_list([in_words(error) or str(error)])
        if kept == name:
            return gr.skip(), ""
        return gr.Dropdown(self.desk.shelf.names(), value=kept), ""

    def look_ahead(
        self, shown: Form, name: str | None, marked: Sequence[Problem], *values: Any
    ) -> tuple[Any, ...]:
        """What Generate would do; problems of fields are shown there, but for missing prompts."""
        form = _filled(shown, values)
        ahead = self.desk.look_ahead(name, form)
        shown_at = tuple(problem for problem in ahead.problems if not problem.is_missing_prompt)
        view = outlook_view(ahead.problems, ahead.lines, ahead.notes)
        return view, *self._marks(form, marked, shown_at)

    def _marks(
        self, form: Form, before: Sequence[Problem], now: Sequence[Problem]
    ) -> tuple[Any, ...]:
        """Updates of the problems that are marked, what opens, and all fields."""
        if tuple(before) == tuple(now):
            return tuple(gr.skip() for _ in range(3 + len(form.scenes) + _count_fields(form)))
        texts = {(p.scene, p.field): p.text for p in now if has_field(p)}
        fields = [
            _marked(texts.get((None, n)), story_info(n, self.desk.model)) for n in STORY_FIELDS
        ]
        for scene in range(len(form.scenes)):
            fields += [_marked(texts.get((scene, n)), scene_info(n)) for n in SCENE_FIELDS]
        of_story = {name for scene, name in texts if scene is None}
        inner = {
            scene for scene, name in texts if scene is not None and name not in SCENE_FIELDS[:2]
        }
        opens = [bool(of_story), bool(of_story & set(MORE_FIELDS))]
        opens += [scene in inner for scene in range(len(form.scenes))]
        return tuple(now), *(gr.Accordion(open=True) if o else gr.skip() for o in opens), *fields

    # --- it is made

    def generate(
        self, shown: Form, name: str | None, page: int, marked: Sequence[Problem], *values: Any
    ) -> tuple[Any, ...]:
        """Begins to make the story, or says at the fields what is wrong."""
        form = _filled(shown, values)
        story, problem = self._keep(name, page, form)
        nothing = tuple(gr.skip() for _ in range(5))
        if problem:
            return story, problem, *nothing, gr.skip(), *self._marks(form, marked, ())
        ahead = self.desk.look_ahead(name, form)
        try:
            if ahead.problems:
                lines = problem_list([str(problem) for problem in ahead.problems])
                return story, lines, *nothing, "", *self._marks(form, marked, ahead.problems)
            _, run = self.desk.generate(name, page, form)
        except (ValueError, OSError) as error:
            lines = [str(p) for p in read_problems(in_words(error) or str(error))]
            return story, problem_list(lines), *nothing, "", *self._marks(form, marked, ())
        view = story_view(run)
        watched = state_view(run), view, view, gr.Timer(active=True), gr.skip()
        return (
            *(story, "", *watched, outlook_view((), ahead.lines, ahead.notes)),
            *self._marks(form, marked, ()),
        )

    def watch(self, name: str | None, seen: str) -> tuple[Any, ...]:
        """How far the story is: updates of `Page.watched`."""
        run = self.desk.runner.of(self.desk.shelf.folder(name)) if name else None
        if run is None:
            return "", gr.skip(), gr.skip(), gr.Timer(active=False), gr.skip(), gr.skip()
        ended = run.ended.is_set()
        view = story_view(run, self._takes(run))
        # Players begin anew when they are written anew.
        shown = (gr.skip(), gr.skip()) if view == seen else (view, view)
        if not ended:
            return state_view(run), *shown, *(gr.skip() for _ in range(3))
        # What was to be made is made: what stood above Generate no longer holds.
        return state_view(run), *shown, gr.Timer(active=False), gallery_view(self.desk.shelf), ""

    def cancel(self, name: str | None) -> Any:
        """Cancels the story that is shown, and goes on looking."""
        self.desk.cancel(name)
        return gr.Timer(active=bool(name))

    def _takes(self, run: Run) -> dict[int, Any]:
        """The takes of a finished story; while one is made, reading them would hold it up."""
        if run.state != "done":
            return {}
        prompts = [scene.prompt for scene in run.storyboard.scenes]
        fps = run.storyboard.filled(self.desk.model.defaults).fps
        return take_videos(run.folder, prompts, fps)


def _filled(shown: Form, values: Sequence[Any]) -> Form:
    settings = len(STORY_FIELDS)
    return filled_in(shown, values[:settings], values[settings:])


def _count_fields(form: Form) -> int:
    return len(STORY_FIELDS) + len(form.scenes) * len(SCENE_FIELDS)


def _marked(problem: str | None, info: str | None) -> Any:
    """The update of a field: its problem in place of the line that explains it."""
    return gr.update(info=problem or info, elem_classes=["wrong"] if problem else [])
