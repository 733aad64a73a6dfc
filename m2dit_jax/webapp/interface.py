"""The page in Gradio; what it does is in the modules beside this one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from m2dit_jax.webapp.board import STORY_FIELDS, Form, SceneForm
from m2dit_jax.webapp.desk import Desk
from m2dit_jax.webapp.editor import BoardKept, connect_cards, draw_cards
from m2dit_jax.webapp.events import PageEvents
from m2dit_jax.webapp.fields import MAIN_FIELDS, MORE_FIELDS, component, story_field
from m2dit_jax.webapp.gallery import gallery_view, model_view

_LOOK_EVERY = 0.5  # seconds
_NOTHING = Form(())  # until the page is loaded: what is typed is never in a form that will go
_EMPTY = Form((SceneForm(),) * 3)
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
# The address names the story, so that a page that is loaded again shows it again.
_ADDRESS = "name => history.replaceState(null, '', name ? `?story=${name}` : location.pathname)"
_QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass
class Page:
    """The components that lie on the page from the start, but for the fields of scenes.

    `number` is the page's, `board` the form whose cards are drawn, `marked` the problems that are
    shown at fields, `seen` the view that is shown.
    """

    number: Any
    board: Any
    marked: Any
    seen: Any
    timer: Any
    story: Any = None
    buttons: dict[str, Any] = field(default_factory=dict)
    settings: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)
    outlook: Any = None
    state: Any = None
    messages: Any = None
    view: Any = None
    about: Any = None
    gallery: Any = None

    @property
    def opened(self) -> list[Any]:
        """The components that opening a story fills in, in the order of `PageEvents.opened`."""
        return [
            *(self.number, self.story, self.board, self.messages, self.outlook, self.state),
            *(self.view, self.seen, self.timer, self.about, self.gallery, *self.settings),
        ]

    @property
    def watched(self) -> list[Any]:
        """The components that a story at work changes, in the order of `PageEvents.watch`."""
        return [self.state, self.view, self.seen, self.timer, self.gallery, self.outlook]


def build_interface(desk: Desk) -> gr.Blocks:
    """The page: the storyboard at the left, at the right what comes of it and what there is."""
    events = PageEvents(desk)
    with gr.Blocks(title="Mask²DiT stories", analytics_enabled=False) as blocks:
        page = Page(gr.State(0), gr.State(_NOTHING), gr.State(()), gr.State(""), _timer())
        gr.Markdown("# Stories, scene by scene")
        with gr.Row(equal_height=False, elem_classes="page"):
            with gr.Column(elem_classes="form"):
                editor = _lay_out_form(page, desk)
            with gr.Column(elem_classes="results"):
                page.view = gr.HTML()
                with gr.Accordion("What this model can do", open=True) as page.about:
                    gr.HTML(model_view(desk.model))
                with gr.Accordion("Earlier stories", open=True):
                    page.gallery = gr.HTML(gallery_view(desk.shelf))
        with editor:
            # Not when the page is loaded, too: the cards would be drawn twice, over what is typed.
            @gr.render(inputs=[page.board], triggers=[page.board.change])
            def _(form: Form) -> None:
                _lay_out_scenes(page, desk, events, form)

        _connect(blocks, page, events)
    return blocks


def _timer() -> gr.Timer:
    return gr.Timer(_LOOK_EVERY, active=False)


def _lay_out_form(page: Page, desk: Desk) -> gr.Column:
    """All of the form but the scenes, whose place is returned."""
    with gr.Row(elem_classes="top"):
        names = desk.shelf.names()
        options: dict[str, Any] = {"label": "Story", "value": None, "scale": 2, "min_width": 140}
        page.story = component(gr.Dropdown, names, **options)
        for text in ("New story", "Example"):
            page.buttons[text] = component(gr.Button, text, scale=1, min_width=115)
    editor = gr.Column()
    fields = {}
    with gr.Accordion("Settings of the story", open=False) as settings:
        with gr.Row():
            fields |= {name: story_field(name, desk.model) for name in MAIN_FIELDS}
        with gr.Accordion("More settings", open=False) as more, gr.Row():
            fields |= {name: story_field(name, desk.model) for name in MORE_FIELDS}
    page.settings = [fields[name] for name in STORY_FIELDS]
    page.more = [settings, more]
    page.outlook = gr.HTML()
    with gr.Row(elem_classes="make"):
        page.buttons["Generate"] = component(gr.Button, "Generate", variant="primary")
        page.buttons["Cancel"] = component(gr.Button, "Cancel")
    page.messages = gr.HTML()
    page.state = gr.HTML()
    return editor


def _lay_out_scenes(page: Page, desk: Desk, events: PageEvents, form: Form) -> None:
    """The scenes' cards, and all that depends on what the fields hold."""
    if not form.scenes:
        return
    cards = draw_cards(desk, form)
    fields = [*page.settings, *cards.fields]
    marks = [page.marked, *page.more, *cards.more, *fields]
    changed = [page.board, page.story, page.outlook, page.messages, page.marked]
    kept = BoardKept([page.story, page.number], changed, events.keep_board, events.refuse_board)
    connect_cards(cards, desk, form, page.settings, kept)
    shown = form
    gr.on(
        [one.input for one in fields],
        lambda *values: events.keep(shown, *values),
        [page.story, page.number, *fields],
        [page.story, page.messages],
        trigger_mode="always_last",
        **_QUIET,
    )
    gr.on(
        _settled(fields),
        lambda *values: events.look_ahead(shown, *values),
        [page.story, page.marked, *fields],
        [page.outlook, *marks],
        trigger_mode="always_last",
        **_QUIET,
    )
    gr.on(
        [page.buttons["Generate"].click, *_submitted(cards.fields)],
        lambda *values: events.generate(shown, *values),
        [page.story, page.number, page.marked, *fields],
        [page.story, page.messages, *page.watched, *marks],
        **_QUIET,
    )


def _settled(fields: Sequence[Any]) -> list[Any]:
    """Events of fields that are left, or chosen from."""
    return [
        getattr(one, "blur", None) or getattr(one, "release", None) or one.input for one in fields
    ]


def _submitted(fields: Sequence[Any]) -> list[Any]:
    """Shift and Enter in a prompt; Enter in the other fields of text."""
    return [one.submit for one in fields if isinstance(one, gr.Textbox)]


def _connect(blocks: gr.Blocks, page: Page, events: PageEvents) -> None:
    """Connects what does not depend on the scenes' fields."""
    blocks.load(events.load, None, page.opened, **_QUIET)
    page.story.input(events.open, page.story, page.opened, **_QUIET)
    page.story.change(None, page.story, None, js=_ADDRESS)
    page.buttons["New story"].click(
        lambda: events.opened(None, _EMPTY), None, page.opened, **_QUIET
    )
    page.buttons["Example"].click(events.example, page.number, page.opened, **_QUIET)
    page.buttons["Cancel"].click(events.cancel, page.story, page.timer, **_QUIET)
    page.timer.tick(events.watch, [page.story, page.seen], page.watched, **_QUIET)
