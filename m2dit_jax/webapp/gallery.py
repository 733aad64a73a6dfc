"""The parts of the page beside the form: what the model can do, and the earlier stories."""

from html import escape
from pathlib import Path

from m2dit_jax.webapp.model import AppModel
from m2dit_jax.webapp.shelf import Shelf
from m2dit_jax.webapp.view import file_address

_MOST = 24  # stories that are shown; the list above the form has all


def model_view(model: AppModel) -> str:
    """What the model can do, with the words that it knows."""
    facts = "".join(f"<li>{escape(line)}</li>" for line in model.facts())
    words = " ".join(f"<code>{escape(word)}</code>" for word in model.words)
    known = f"<p class=words>{words}</p>" if words else ""
    return f"<div class=about><p><b>{escape(model.name)}</b></p><ul>{facts}</ul>{known}</div>"


def gallery_view(shelf: Shelf) -> str:
    """The newest stories as links that open them."""
    cards = [_card(shelf, name) for name in shelf.names()[: -_MOST - 1 : -1]]
    if not cards:
        return "<p class=faint>None yet. What you write and make here stays here.</p>"
    return f"<div class=gallery>{''.join(cards)}</div>"


def _card(shelf: Shelf, name: str) -> str:
    folder = shelf.folder(name)
    try:
        prompts = [scene.get("prompt") or "" for scene in (shelf.form(name) or {})["scenes"]]
    except (ValueError, OSError, LookupError):
        prompts = []
    first = next(filter(None, prompts), "empty")
    made = folder / "story.mp4"
    state = f"{len(prompts)} scenes" if made.is_file() else f"{len(prompts)} scenes, not made yet"
    return (
        f"<a href='?story={name}'>{_picture(made)}<span><b>{name}</b><br>"
        f"<span dir=auto>{escape(str(first))}</span><br><small>{state}</small></span></a>"
    )


def _picture(video: Path) -> str:
    if not video.is_file():
        return "<span class=none></span>"
    address = f"{file_address(video)}#t=0.1"
    return f"<video muted playsinline tabindex=-1 preload=metadata src='{address}'></video>"
