"""The parts of a story on disk: latents, frames and text embeddings, each under its key.

A file appears when it is whole. One that is damaged counts as not there and is made again: beside
its array a file has the CRC-32 of the array's bytes and of the JSON about it. So does one that was
made with other weights under the same key, which older versions could not tell. Files of older
versions, which say neither, are taken as they are.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from m2dit_jax.utils import digests
from m2dit_jax.utils.files import atomic_write

Weights = Callable[[], str | None]


class SceneStore:
    """A folder, made when something is put into it. What no scene needs any more stays.

    `weights` gives a hash of all bytes of the model's weights, None if they do not matter. Nothing
    is compared if digests.SKIP is set.
    """

    def __init__(self, folder: Path, weights: Weights = lambda: None):
        self.folder = folder
        self._weights = weights
        self._whole: set[tuple[str, int, int]] = set()  # files read: path, size, time of change

    def put_latents(
        self, key: str, latents: Float[np.ndarray, "F H W C"], about: dict[str, Any]
    ) -> None:
        """Keeps a scene's latents with what they depend on and what making them took, as JSON."""
        self._put(self._latents(key), latents, about)

    def latents(self, key: str) -> Float[np.ndarray, "F H W C"]:
        """Latents of a scene. Raises KeyError if there are none."""
        found = self._read(self._latents(key))
        if found is None:
            raise KeyError(key)
        return found[0]

    def about(self, key: str) -> dict[str, Any] | None:
        """The JSON that lies beside a scene's latents; None if there are none."""
        return self._read_about(self._latents(key))

    def problem(self, key: str) -> str | None:
        """Why the latents that lie under a key do not count; None if there are none, or they do."""
        path = self._latents(key)
        if not path.is_file() or self.about(key) is not None:
            return None
        try:
            with safe_open(path, framework="np") as file:
                if self._is_whole(file.metadata(), file.get_tensor("array")):
                    return "the model's weights have changed, within their files"
        except (OSError, SafetensorError, ValueError, TypeError, KeyError):
            pass
        return f"{path.name} is damaged"

    def put_frames(self, key: str, frames: UInt8[np.ndarray, "F H W 3"], decoder: str) -> None:
        """Keeps a scene's frames, exactly."""
        self._put(self._frames(key), frames, {"decoder": decoder})

    def has_frames(self, key: str, decoder: str) -> bool:
        """Whether a scene's frames are there and were decoded in this way."""
        return self._read_about(self._frames(key)) == {"decoder": decoder}

    def frames(self, key: str) -> UInt8[np.ndarray, "F H W 3"]:
        """Frames of a scene. Raises KeyError if there are none."""
        found = self._read(self._frames(key))
        if found is None:
            raise KeyError(key)
        return found[0]

    def put_text(self, key: str, embeds: Float[np.ndarray, "T E"]) -> None:
        """Keeps a prompt's embeddings, in their own dtype."""
        # Files know no bfloat16 of numpy's; every value of it is one of float32.
        self._put(self._text(key), embeds.astype(np.float32), {"dtype": str(embeds.dtype)})

    def has_text(self, key: str) -> bool:
        """Whether a prompt's embeddings are there."""
        return self._read_about(self._text(key)) is not None

    def text(self, key: str) -> Float[np.ndarray, "T E"]:
        """Embeddings of a prompt. Raises KeyError if there are none."""
        found = self._read(self._text(key))
        if found is None:
            raise KeyError(key)
        return found[0].astype(jnp.dtype(found[1]["dtype"]))

    def discard(self, key: str) -> None:
        """Deletes a scene's latents and frames, if there are any."""
        for path in (self._latents(key), self._frames(key)):
            self._delete(path)

    def _latents(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _frames(self, key: str) -> Path:
        return self.folder / f"{key}.frames.safetensors"

    def _text(self, key: str) -> Path:
        return self.folder / f"{key}.text.safetensors"

    def _put(self, path: Path, array: np.ndarray, about: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            array = np.ascontiguousarray(array)
            text = json.dumps(about)
            metadata = {"about": text, "crc32": _crc32(array, text)}
            if not digests.skips() and (weights := self._weights()) is not None:
                metadata["weights"] = weights
            save_file({"array": array}, part, metadata=metadata)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
        try:
            with safe_open(path, framework="np") as file:
                metadata, array = file.metadata(), file.get_tensor("array")
            stat = path.stat()
            if not self._is_valid(metadata, array):
                return None
            self._whole.add((str(path), stat.st_size, stat.st_mtime_ns))
            return array, json.loads(metadata["about"])
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _read_about(self, path: Path) -> dict[str, Any] | None:
        """The file's JSON, None if it is damaged: it is read whole, once by this object."""
        try:
            stat = path.stat()
            if (str(path), stat.st_size, stat.st_mtime_ns) not in self._whole:
                found = self._read(path)
                return None if found is None else found[1]
            with safe_open(path, framework="np") as file:
                return json.loads(file.metadata()["about"])
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _is_valid(self, metadata: dict[str, str], array: np.ndarray) -> bool:
        return self._is_whole(metadata, array) and self._is_of_these_weights(metadata)

    def _is_whole(self, metadata: dict[str, str], array: np.ndarray) -> bool:
        if metadata.keys() - {"about", "crc32", "weights"}:  # a name that has rotted
            return False
        if digests.skips() or "crc32" not in metadata:
            return True
        return metadata["crc32"] == _crc32(array, metadata["about"])

    def _is_of_these_weights(self, metadata: dict[str, str]) -> bool:
        if digests.skips() or "weights" not in metadata:
            return True
        weights = self._weights()
        return weights is None or metadata["weights"] == weights


def _crc32(array: np.ndarray, about: str) -> str:
    return digests.crc32(array.tobytes() + f"{array.dtype} {array.shape} {about}".encode())


class MemoryStore(SceneStore):
    """The same in memory, for stories that nobody asked to write yet."""

    def __init__(self, weights: Weights = lambda: None) -> None:
        super().__init__(Path(), weights)
        self.entries: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}

    def _put(self, path: Path, array: np.ndarray, about: dict[str, Any]) -> None:
        self.entries[path.name] = np.ascontiguousarray(array), about

    def _delete(self, path: Path) -> None:
        self.entries.pop(path.name, None)

    def _read(self, path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
        return self.entries.get(path.name)

    def _read_about(self, path: Path) -> dict[str, Any] | None:
        found = self.entries.get(path.name)
        return None if found is None else found[1]

    def copy_to(self, folder: Path) -> SceneStore:
        """A store on disk with all entries of this one."""
        store = SceneStore(folder, self._weights)
        for name, (array, about) in self.entries.items():
            store._put(folder / name, array, about)
        return store
