"""Pages are Jinja2 templates with all that they show in them; they load and send nothing."""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from m2dit_jax.utils.files import atomic_write

_CHUNK = 3 * 2**18  # bytes; of multiples of 3 bytes base64 can be written piece by piece
_TEMPLATES = Path(__file__).parent / "templates"


def write_document(target: Path, template: str, **context: Any) -> None:
    """Writes a page piece by piece: a story's videos together need not fit into memory.

    All texts of `context` are escaped unless they are Markup. Raises OSError if a video cannot be
    read; then there is no page.
    """
    with atomic_write(target) as part, part.open("wb") as file:
        for piece in _ENVIRONMENT.get_template(template).generate(**context):
            # JSON and names of files can hold half a surrogate pair, which UTF-8 cannot.
            file.write(piece.encode(errors="backslashreplace"))


def image_uri(image: Image.Image, kind: str = "jpeg", **options: Any) -> str:
    """A picture as a data URI; `kind` is "jpeg" or "png", `options` are those of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return data_uri(f"image/{kind}", buffer.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """Content that stands in a page itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def shown(value: Any) -> str:
    """A value in a reader's words."""
    match value:
        case Markup():
            return value
        case None:
            return "the model's default"
        case bool():
            return "yes" if value else "no"
        case "":
            return "none"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(shown, value)) or "none"
    return str(value)


def number_spans(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: "1, 3 and 7 to 12"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    words = []
    for span in spans:
        words += [f"{span[0]} to {span[-1]}"] if len(span) > 2 else map(str, span)
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def seconds(value: float) -> str:
    """A duration such as "4.2 s" or "1 min 15 s"."""
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def badge(status: str) -> Markup:
    """The status of a scene in its colour."""
    return Markup('<span class="badge {0}">{0}</span>').format(status)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined with dots.

    (Not `flax.traverse_util.flatten_dict`, which would load jax to show a page.)
    """
    fields: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def _base64_pieces(path: Path) -> Iterator[Markup]:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield Markup(base64.b64encode(chunk).decode())


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("m2dit_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "badge": badge,
        "base64_pieces": _base64_pieces,
        "flat": flat,
        "named": lambda field: field.replace("_", " "),
        "seconds": seconds,
        "shown": shown,
    }
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    environment.globals |= {
        "style": Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
    }
    return environment


_ENVIRONMENT = _environment()
