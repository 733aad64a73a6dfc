"""The parts of a story on disk: latents, frames and text embeddings, each under its key.

A file appears when it is whole. One that is damaged counts as not there and is made again.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from m2dit_jax.utils.files import atomic_write


class SceneStore:
    """A folder, made when something is put into it. What no scene needs any more stays."""

    def __init__(self, folder: Path):
        self.folder = folder

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
            save_file({"array": array}, part, metadata={"about": json.dumps(about)})

    def _read(self, path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
        try:
            with safe_open(path, framework="np") as file:
                return file.get_tensor("array"), json.loads(file.metadata()["about"])
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _read_about(self, path: Path) -> dict[str, Any] | None:
        """The file's JSON; opening it checks its length against its header."""
        try:
            with safe_open(path, framework="np") as file:
                return json.loads(file.metadata()["about"])
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError):
            return None


class MemoryStore(SceneStore):
    """The same in memory, for stories that nobody asked to write yet."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.entries: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}

    def _put(self, path: Path, array: np.ndarray, about: dict[str, Any]) -> None:
        self.entries[path.name] = np.ascontiguousarray(array), about

    def _read(self, path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
        return self.entries.get(path.name)

    def _read_about(self, path: Path) -> dict[str, Any] | None:
        found = self.entries.get(path.name)
        return None if found is None else found[1]

    def copy_to(self, folder: Path) -> SceneStore:
        """A store on disk with all entries of this one."""
        store = SceneStore(folder)
        for name, (array, about) in self.entries.items():
            store._put(folder / name, array, about)
        return store
