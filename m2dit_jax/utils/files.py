"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to that becomes `path` when all is written, so no half file is ever seen."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes the whole file or none; NaN, which JSON does not know, is a ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Writes the whole file or none."""
    with atomic_write(Path(path)) as part:
        part.write_text(text, encoding="utf-8")
