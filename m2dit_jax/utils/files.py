"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from m2dit_jax.utils.disks import writing
from m2dit_jax.utils.stopping import on_stop


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to that becomes `path` when all is written, so no half file is ever seen.

    Raises OSError, naming `path`, if the disk is full or lost or may not be written to, also where
    a library that writes says so in another way.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def remove() -> None:
        part.unlink(missing_ok=True)

    with on_stop(remove):
        try:
            with writing(path):
                yield part
                os.replace(part, path)
        except OSError as error:
            if error.filename == str(part):
                error.filename, error.filename2 = str(path), None
            raise
        finally:
            # A share that is lost must not hide what was said of it.
            with suppress(OSError):
                remove()


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes the whole file or none; NaN, which JSON does not know, is a ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Writes the whole file or none."""
    with atomic_write(Path(path)) as part:
        part.write_text(text, encoding="utf-8")
