"""The form in the browser, in Gradio; what it does is in the modules beside this one."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from m2dit_jax.utils.disks import in_words
from m2dit_jax.webapp.board import (
    SCENE_FIELDS,
    STORY_FIELDS,
    SceneForm,
    problems,
    to_forms,
    to_storyboard,
)
from m2dit_jax.webapp.runs import Runner
from m2dit_jax.webapp.shelf import Shelf
from m2dit_jax.webapp.view import file_address, finished_view, problem_list, story_view

_LOOK_EVERY = 0.2  # seconds
_FIRST = (SceneForm(),) * 3
STYLE = """
.story video, .story .empty { width: 100%; border-radius: 6px; background: #111; }
.story .whole { max-width: 26rem; margin: 0 auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 0.7rem; }
.cards figure { margin: 0; } .cards figcaption { overflow-wrap: anywhere; font-size: 0.9rem; }
.story .empty { aspect-ratio: 1; display: grid; place-items: center; color: #bbb; }
.clip { height: 7rem; }
.story progress { width: 100%; } .downloads a { margin-right: 0.8rem; }
textarea, input, figcaption { unicode-bidi: plaintext; }
.problems li { color: #b3261e; } .dark textarea, input, figcaption { unicode-bidi: plaintext; }
.problems li { color: #f2988f; }
footer { display: none !important; }
"""


def build_interface(shelf: Shelf, runner: Runner) -> gr.Blocks:
    """The page: at the left the storyboard, at the right what comes of it."""
    with gr.Blocks(title="Mask²DiT stories", analytics_enabled=False) as blocks:
        forms = gr.State(_FIRST)
        gr.Markdown("# Stories, scene by scene")
        with gr.Row(equal_height=False):
            with gr.Column():
                with gr.Row():
                    story = _input(gr.Dropdown, shelf.names(), label="Story", value=None, scale=3)
                    new = gr.Button("New story", scale=1)
                with gr.Accordion("Settings of the story", open=False):
                    settings = [_field(name) for name in STORY_FIELDS]
                editor = gr.Column()
            with gr.Column():
                messages = gr.HTML()
                view = gr.HTML()

        with editor:

            @gr.render(inputs=[forms])
            def _(shown: tuple[SceneForm, ...]) -> None:
                texts = []
                removers, uploads, clearers = [], [], []
                for number, form in enumerate(shown, 1):
                    with gr.Group():
                        prompt, *others = SCENE_FIELDS
                        texts.append(_field(prompt, form, f"Scene {number}"))
                        if others:
                            with gr.Accordion(f"Settings of scene {number}", open=False):
                                texts += [_field(name, form) for name in others]
                        if form.clip is not None:
                            gr.HTML(
                                f'<video class=clip controls muted src="{file_address(form.clip)}">'
                            )
                        with gr.Row():
                            if form.clip is None:
                                uploads.append((number, _upload()))
                            else:
                                clearers.append((number, gr.Button("Not given", size="sm")))
                            removers.append((number, gr.Button("Remove", size="sm")))
                add = gr.Button("Add a scene")
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary")
                    cancel = gr.Button("Cancel")

                def with_texts(action: Any) -> Any:
                    """Hands an action the forms as they are filled in now."""
                    return lambda *values: action(_filled_in(shown, values))

                for number, button in removers:
                    remove = with_texts(partial(_without, number=number))
                    button.click(remove, texts, forms, show_progress="hidden")
                for number, button in clearers:
                    clear = with_texts(partial(_with_clip, number=number, clip=None))
                    button.click(clear, texts, forms, show_progress="hidden")
                for number, upload in uploads:
                    attach = partial(_attach, shelf, shown, number)
                    upload.upload(attach, [upload, *texts], [forms, messages])
                add.click(with_texts(_longer), texts, forms, show_progress="hidden")
                generate.click(
                    partial(_generate, shelf, runner, shown),
                    [story, *settings, *texts],
                    [story, messages, view],
                    show_progress="hidden",
                    # The runner makes one story at a time; here all may look on.
                    concurrency_limit=None,
                )
                cancel.click(partial(_cancel, shelf, runner), story, None, concurrency_limit=None)

        opened = [forms, *settings, messages, view]
        story.input(partial(_open, shelf, runner), story, opened, concurrency_limit=None)
        new.click(lambda: (None, *_blank()), None, [story, *opened])
        blocks.load(lambda: gr.Dropdown(shelf.names()), None, story)
    return blocks


def _input(kind: Any, *values: Any, **options: Any) -> Any:
    """A component that takes input, whatever events it is part of."""
    # Left unset, Gradio decides: it locks what an event fills in, and what is rendered again.
    return kind(*values, interactive=True, **options)


def _field(name: str, form: SceneForm | None = None, label: str = "") -> gr.Textbox:
    texts = form.texts if form else {}
    return _input(
        gr.Textbox,
        value=texts.get(name, ""),
        label=label or name.replace("_", " "),
        placeholder="what the scene shows" if name == "prompt" else "the model's default",
        lines=2 if name == "prompt" else 1,
    )


def _upload() -> gr.UploadButton:
    return _input(gr.UploadButton, "Give a clip", file_types=["video"], type="filepath", size="sm")


def _filled_in(shown: tuple[SceneForm, ...], values: tuple[str, ...]) -> tuple[SceneForm, ...]:
    width = len(SCENE_FIELDS)
    return tuple(
        SceneForm(dict(zip(SCENE_FIELDS, values[width * i : width * (i + 1)], strict=True)), f.clip)
        for i, f in enumerate(shown)
    )


def _longer(forms: tuple[SceneForm, ...]) -> tuple[SceneForm, ...]:
    return (*forms, SceneForm())


def _without(forms: tuple[SceneForm, ...], number: int) -> tuple[SceneForm, ...]:
    return (*forms[: number - 1], *forms[number:]) or (SceneForm(),)


def _with_clip(
    forms: tuple[SceneForm, ...], number: int, clip: Path | None
) -> tuple[SceneForm, ...]:
    changed = SceneForm(forms[number - 1].texts, clip)
    return (*forms[: number - 1], changed, *forms[number:])


def _attach(
    shelf: Shelf, shown: tuple[SceneForm, ...], number: int, uploaded: str, *values: str
) -> tuple[Any, str]:
    forms = _filled_in(shown, values)
    try:
        clip = shelf.keep_clip(Path(uploaded))
    except (ValueError, OSError) as error:
        return gr.skip(), problem_list([f"Scene {number}, clip: {in_words(error) or error}"])
    return _with_clip(forms, number, clip), ""


def _generate(
    shelf: Shelf, runner: Runner, shown: tuple[SceneForm, ...], name: str | None, *values: str
) -> Iterator[tuple[Any, Any, Any]]:
    settings: dict[str, str] = dict(zip(STORY_FIELDS, values, strict=False))
    try:
        storyboard = to_storyboard(_filled_in(shown, values[len(STORY_FIELDS) :]), settings)
        name = name or shelf.new()
        run = runner.start(
            storyboard, shelf.folder(name), partial(shelf.keep_form, name, storyboard)
        )
    except (ValueError, OSError) as error:
        yield gr.skip(), problem_list(problems(in_words(error) or str(error))), gr.skip()
        return
    yield gr.Dropdown(shelf.names(), value=name), "", story_view(run)
    before = ""
    while not run.ended.wait(_LOOK_EVERY):
        if (now := story_view(run)) != before:
            yield gr.skip(), "", now
        before = now
    yield gr.skip(), problem_list(problems(run.error)), story_view(run)


def _cancel(shelf: Shelf, runner: Runner, name: str | None) -> None:
    if name and (run := runner.of(shelf.folder(name))):
        run.cancel()


def _blank() -> tuple[Any, ...]:
    return (_FIRST, *[""] * len(STORY_FIELDS), "", "")


def _open(shelf: Shelf, runner: Runner, name: str | None) -> Iterator[tuple[Any, ...]]:
    """A story's storyboard in the form, and what was, or is being, made of it."""
    if not name:
        yield _blank()
        return
    folder = shelf.folder(name)
    run = runner.of(folder)
    try:
        made, form = shelf.storyboard(name), shelf.form(name)
    except (ValueError, OSError) as error:
        yield (*_blank()[:-2], problem_list([in_words(error) or str(error)]), "")
        return
    if form is None:
        yield _blank()
    else:
        forms, settings = to_forms(form, shelf.clips)
        shown = "" if made is None else finished_view(folder, made["scenes"])
        said = [] if made or run else ["It never was finished: Generate goes on with it."]
        yield (forms, *(settings[name] for name in STORY_FIELDS), problem_list(said), shown)
    while run is not None and not run.ended.is_set():
        yield (*[gr.skip()] * (1 + len(STORY_FIELDS)), "", story_view(run))
        time.sleep(_LOOK_EVERY)
    if run is not None:
        texts = problem_list(problems(run.error))
        yield (*[gr.skip()] * (1 + len(STORY_FIELDS)), texts, story_view(run))
