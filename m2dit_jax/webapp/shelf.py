"""The app's output folder: a folder for each story, and clips and pictures that were uploaded."""

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.utils.files import read_json, write_json
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.utils.media import VideoError, check_clip
from m2dit_jax.utils.stills import StillError, read_still

MAX_CLIP_BYTES = 200_000_000
MAX_UPLOAD_BYTES = 10 * MAX_CLIP_BYTES  # uploads and clips together
_UNUSED_SECONDS = 3600
_NAME = re.compile(r"story-[0-9]{3,6}")
_CLIP = re.compile(r"[0-9a-f]{24}\.(?:mp4|png)")
_FORM = "form.json"  # of a story: the storyboard that was last to be made
_DRAFT = "draft.json"  # what its form holds, finished or not


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

    def new(self, draft: Mapping[str, Any] | None = None) -> str:
        """Makes a story's folder and returns its name.

        The folder comes with the draft in it: nobody ever sees a story whose form is not there.
        """
        made = self.uploads / secrets.token_hex(8)  # which is cleared, should this be interrupted
        made.mkdir()
        if draft is not None:
            write_json(made / _DRAFT, draft)
        number = max((int(name.removeprefix("story-")) for name in self.names()), default=0)
        while True:
            number += 1
            story = self.output / f"story-{number:03d}"
            try:
                return made.rename(story).name
            except OSError:
                if not os.path.lexists(story):  # else another page was quicker
                    raise

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
        """Storyboard that the story was last made from; None if it never was finished.

        Raises ValueError, as `form` does, for a damaged file.
        """
        return self._mapping(self.folder(name) / "storyboard.json")

    def form(self, name: str) -> dict[str, Any] | None:
        """The form as it was last written, else the storyboard that was last to be made, if any."""
        folder = self.folder(name)
        drafted = self._mapping(folder / _DRAFT) or self._mapping(folder / _FORM)
        return drafted or self.storyboard(name)

    def keep_draft(self, name: str, mapping: Mapping[str, Any]) -> None:
        """Keeps what the form holds, a storyboard's content that may lack prompts."""
        write_json(self.folder(name) / _DRAFT, mapping)

    def keep_form(self, name: str, storyboard: Storyboard) -> None:
        """Keeps the form's storyboard, so that a story that never ends is not lost."""
        write_json(self.folder(name) / _FORM, storyboard.to_mapping())

    def _mapping(self, path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            found = read_json(path)
            scenes = found["scenes"]
            if not scenes or not all(isinstance(scene, dict) for scene in scenes):
                raise ValueError("it holds no scenes")
            return found
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}: is no storyboard ({type(error).__name__}: {error}); a good one, or none, "
                "in its place lets the story open again"
            ) from error

    # --- clips

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A context at whose start what was uploaded and never became a clip is removed.

        Not where another process is in it for the same folder: the uploads may be its own.
        """
        with ExitStack() as stack:
            with suppress(InUse):
                stack.enter_context(exclusive(self.output / ".lock"))
                self._clear_uploads()
            yield

    def _clear_uploads(self) -> None:
        for path in self.uploads.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def has_room_for(self, size: int) -> bool:
        """Whether `size` bytes more may be uploaded, MAX_UPLOAD_BYTES with all that lie there.

        Where there is no room, uploads older than an hour and clips of that age that no story has
        are removed first.
        """
        if self._upload_bytes() + size > MAX_UPLOAD_BYTES:
            self._remove_unused()
        return self._upload_bytes() + size <= MAX_UPLOAD_BYTES

    def _uploaded(self) -> Iterator[Path]:
        folders = (self.uploads, self.clips)
        return (path for folder in folders for path in folder.rglob("*") if path.is_file())

    def _upload_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._uploaded())

    def _remove_unused(self) -> None:
        used = set()
        for name in self.names():
            for file in (_DRAFT, _FORM, "storyboard.json"):
                path = self.output / name / file
                # Also a damaged one has the names of its clips.
                text = path.read_text("utf-8", "replace") if path.is_file() else ""
                used |= set(_CLIP.findall(text))
        for path in self._uploaded():
            if path.name not in used and path.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                path.unlink(missing_ok=True)

    def keep_clip(self, uploaded: Path) -> Path:
        """Moves an uploaded video to the clips, under the hash of its bytes.

        The upload is gone afterwards. Raises ValueError if it lies elsewhere than uploads do, is
        too large or no readable video.
        """
        return self._keep(uploaded, "clip", check_clip, ".mp4")

    def keep_picture(self, uploaded: Path) -> Path:
        """The same for a picture."""
        return self._keep(uploaded, "picture", read_still, ".png")

    def _keep(self, uploaded: Path, kind: str, check: Callable[[Path], Any], ending: str) -> Path:
        source = uploaded.resolve()
        if not source.is_relative_to(self.uploads) or not source.is_file():
            raise ValueError(f"the {kind} was not uploaded here")
        try:
            size = source.stat().st_size
            if size > MAX_CLIP_BYTES:
                raise ValueError(
                    f"the {kind} has {size / 1e6:.0f} MB, needs at most {MAX_CLIP_BYTES / 1e6:.0f}"
                )
            check(source)
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            # Readers go by the content, so that one ending does for all.
            kept = self.clips / f"{digest[:24]}{ending}"
            source.replace(kept)
            kept.touch()
            return kept
        except (VideoError, StillError) as error:
            # Without the path, which means nothing to the one who uploads.
            raise ValueError(str(error).removeprefix(f"{source}: ")) from error
        finally:
            source.unlink(missing_ok=True)
