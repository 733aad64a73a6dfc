"""The record of a part of the check: rows of figures in a JSON file, written as they come."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2dit_jax.utils.files import atomic_write

Row = dict[str, Any]  # "what" names it; the other entries are its figures


def write_rows(rows: Iterator[Row], path: Path) -> None:
    """Writes the file anew after every row: a part that is stopped keeps what it has found."""
    known: list[Row] = []
    for row in rows:
        known.append(row)
        print(json.dumps(row), flush=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """The rows of a part; none if it has written nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
