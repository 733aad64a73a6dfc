"""Files that appear whole or not at all, and JSON that is read with its name in every error."""

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
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        finally:
            # A share that is lost must not hide what was said of it.
            with suppress(OSError):
                remove()


def check_file(path: Path | str) -> None:
    """Raises OSError, naming the path, for what is no file: a folder, a pipe that would never end.

    The same for an endless device.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise OSError(f"{path}: is a folder, pipe or device, needs a file")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises OSError if there is no file that can be read, ValueError for what is no JSON, nested too
    deeply or no UTF-8; each names the path.
    """
    check_file(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: not readable as JSON ({reason})") from error


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes the whole file or none; NaN, which JSON does not know, is a ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Writes the whole file or none."""
    with atomic_write(Path(path)) as part:
        part.write_text(text, encoding="utf-8")
