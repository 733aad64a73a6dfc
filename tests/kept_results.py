"""What a campaign has found so far, in a file, so that it may be stopped and started again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class KeptResults:
    """JSON values by name, one a line of the file; without a file they are kept in memory alone.

    They hold for one state of the code and one work folder: a file for each.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._found: dict[str, Any] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                name, value = json.loads(line)
                self._found[name] = value

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The value of that name, made and written if there is none yet."""
        if name not in self._found:
            self._found[name] = make()
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, self._found[name]]) + "\n")
        return self._found[name]
