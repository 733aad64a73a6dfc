"""The app's output folder: a folder for each story, and the clips that were uploaded."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.media import VideoError, check_clip

MAX_CLIP_BYTES = 200_000_000
_NAME = re.compile(r"story-[0-9]{3,6}")


class Shelf:
    """Stories by name, such as story-001. No name or path of a user's becomes a path here.

    Raises ValueError if the folder cannot be made, or holds or lies within one of `secret`,
    folders whose files must not be served.
    """

    def __init__(self, output: Path, *secret: Path):
        self.output = output.resolve()
        for folder in secret:
            other = folder.resolve()
            if self.output.is_relative_to(other) or other.is_relative_to(self.output):
                raise ValueError(
                    f"--output={output}: its files are served to the browser, needs a folder apart "
                    f"from {folder}"
                )
        self.clips = self.output / "clips"
        self.uploads = self.output / "uploads"
        for folder in (self.clips, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Names of the stories, in their order."""
        return sorted(
            path.name
            for path in self.output.iterdir()
            if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        )

    def new(self) -> str:
        """Makes a story's folder and returns its name."""
        number = max((int(name.removeprefix("story-")) for name in self.names()), default=0)
        while True:
            number += 1
            try:
                (self.output / f"story-{number:03d}").mkdir()
            except FileExistsError:  # another page was quicker
                continue
            return f"story-{number:03d}"

    def folder(self, name: str) -> Path:
        """Folder of a story. Raises ValueError if there is no such story."""
        if name not in self.names():
            raise ValueError(f"story {name[:60]!r}: there is none of that name")
        return self.output / name

    def shows(self, path: Path) -> bool:
        """Whether a path, links followed, is one of a story or a checked clip."""
        if not path.is_relative_to(self.output):
            return False
        first = path.relative_to(self.output).parts[:1]
        return bool(first) and (first[0] == self.clips.name or bool(_NAME.fullmatch(first[0])))

    def storyboard(self, name: str) -> dict[str, Any] | None:
        """Storyboard that the story was last made from; None if it never was finished."""
        path = self.folder(name) / "storyboard.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def keep_clip(self, uploaded: Path) -> Path:
        """Keeps an uploaded video under the hash of its bytes.

        Raises VideoError if it lies elsewhere than uploads do, is too large or no readable video.
        """
        source = uploaded.resolve()
        if not source.is_relative_to(self.uploads) or not source.is_file():
            raise VideoError("the clip was not uploaded here")
        size = source.stat().st_size
        if size > MAX_CLIP_BYTES:
            raise VideoError(
                f"the clip has {size / 1e6:.0f} MB, needs at most {MAX_CLIP_BYTES / 1e6:.0f}"
            )
        try:
            check_clip(source)
        except VideoError as error:
            # Without the path, which means nothing to the one who uploads.
            raise VideoError(str(error).removeprefix(f"{source}: ")) from error
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # The reader goes by the content, so that one ending does for all.
        kept = self.clips / f"{digest[:24]}.mp4"
        with atomic_write(kept) as part:
            shutil.copyfile(source, part)
        return kept
