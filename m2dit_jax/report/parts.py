"""Parts of which the pages are put together."""

import base64
import hashlib
import io
import secrets
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from m2dit_jax.report.record import Attempt, SceneRecord
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.media import VideoError, video_frames

_THUMBNAILS = 6  # of a scene, from its first frame to its last
_THUMBNAIL_SIDE = 160  # pixels
# Stands around the path of a file that is written in its place. It is another one in each process:
# no prompt can hold it, and so none can put a file of this machine into a page.
_MARK = secrets.token_hex(16)
_CHUNK = 3 * 2**18  # bytes; of multiples of 3 bytes base64 can be written piece by piece
_HERE = Path(__file__).parent
_STYLE = (_HERE / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_HERE / "page.js").read_text(encoding="utf-8")


def write_document(target: Path, title: str, body: str) -> None:
    """Writes a whole page that may neither load nor send anything, whatever its texts hold.

    Raises OSError if a video of the body cannot be read.
    """
    # The hash lets this script run and no other, such as one smuggled into a prompt.
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'; base-uri 'none'; \
form-action 'none'">
<link rel="icon" href="data:,">
<style>{_STYLE}</style></head>
<body>
{body}
<script>{_SCRIPT}</script>
</body></html>
"""
    with atomic_write(target) as part, part.open("wb") as file:
        for number, piece in enumerate(page.split(_MARK)):
            if number % 2:
                _write_base64(Path(piece), file)
            else:
                # JSON can hold half a surrogate pair, which UTF-8 cannot.
                file.write(piece.encode(errors="backslashreplace"))


def _write_base64(path: Path, file: BinaryIO) -> None:
    """A story's videos together need not fit into memory."""
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            file.write(base64.b64encode(chunk))


def video(path: Path, label: str, poster: str, attributes: str = "") -> str:
    """A player that holds the video itself, and shows the data URI `poster` until it is loaded."""
    return (
        f'<video controls loop muted playsinline aria-label="{escape(label)}" {attributes}'
        f' poster="{poster}" src="data:video/mp4;base64,{_MARK}{path}{_MARK}"></video>'
    )


def thumbnails(path: Path) -> tuple[list[str], int]:
    """Pictures of a video as data URIs, from its first frame to its last, and its frames' number.

    Raises VideoError if it cannot be read.
    """
    small = list(_small_frames(path))
    if not small:
        raise VideoError(f"{path}: holds no video frame")
    chosen = np.linspace(0, len(small) - 1, min(_THUMBNAILS, len(small))).round().astype(int)
    return [_data_uri(small[i]) for i in chosen], len(small)


def _small_frames(path: Path) -> Iterator[Image.Image]:
    for frame in video_frames(path):
        picture = Image.fromarray(frame)
        picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
        yield picture


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(uri: str, text: str = "") -> str:
    return f'<img alt="{escape(text)}" src="{uri}">'


def badge(status: str) -> str:
    return f'<span class="badge {status}">{status}</span>'


def shown(value: Any) -> str:
    """A value as a reader wants it, escaped."""
    match value:
        case None:
            return "the model's default"
        case bool():
            return "yes" if value else "no"
        case "":
            return "none"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(shown(item) for item in value) or "none"
    return escape(str(value))


def field_table(rows: Mapping[str, str], caption: str = "") -> str:
    """Rows of a name and HTML."""
    heading = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(
        f'<tr><th scope="row">{escape(named(name))}</th><td>{value}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{heading}{body}</table>" if rows else ""


def named(field: str) -> str:
    return field.replace("_", " ")


def scene_settings(scene: SceneRecord) -> dict[str, str]:
    """What a scene was made from, as HTML by name; what is not known is left out."""
    fields = {name: shown(value) for name, value in scene.settings.items() if value is not None}
    if scene.clip and scene.status == "given":
        fields["clip"] = shown(scene.clip)
    if scene.context:
        fields["was given"] = _links(scene.context)
    if scene.made_with:
        fields["made together with"] = _links(scene.made_with)
    return fields


def scene_costs(scene: SceneRecord) -> dict[str, str]:
    """What a scene took, as HTML by name; what is not known is left out."""
    fields = {}
    if scene.seconds is not None:
        fields["time"] = seconds(scene.seconds)
    for name in ("steps", "evaluations"):
        if (count := getattr(scene, name)) is not None:
            fields[name] = str(count)
    return fields


def seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def _links(numbers: Sequence[int]) -> str:
    return ", ".join(f'<a href="#scene-{number}">scene {number}</a>' for number in numbers)


def metrics_table(metrics: Mapping[str, float]) -> str:
    return field_table({name: shown(value) for name, value in metrics.items()}, "measured")


def attempts_list(attempts: Sequence[Attempt]) -> str:
    """All attempts where a scene was drawn more than once, or failed."""
    if not attempts or (len(attempts) == 1 and attempts[0].passed):
        return ""
    items = "".join(f"<li>{_attempt(attempt)}</li>" for attempt in attempts)
    title = f"{len(attempts)} attempt{'s' if len(attempts) > 1 else ''}"
    return f"<details open class=attempts><summary>{title}</summary><ol>{items}</ol></details>"


def _attempt(attempt: Attempt) -> str:
    seed = "" if attempt.seed is None else f"seed {attempt.seed}: "
    found = "passed" if attempt.passed else "; ".join(attempt.failures) or "failed"
    numbers = ", ".join(f"{named(name)} {shown(v)}" for name, v in attempt.metrics.items())
    kind = "passed" if attempt.passed else "failed"
    return (
        f'{seed}<span class="{kind}">{escape(found)}</span>'
        f"{f' <small>({escape(numbers)})</small>' if numbers else ''}"
    )


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined with dots."""
    fields: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields
