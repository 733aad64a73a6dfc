"""Features of frames and texts, by which the scores of real video compare them.

CLIP and DINOv2 come through transformers from a folder that the user names, and need torch, which
is optional: transformers has no other implementation of them any more. Without, colours and edges
must do.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from m2dit_jax.utils.extras import how_to_install
from m2dit_jax.utils.files import read_json
from m2dit_jax.utils.frames import colours, luma

CLASSICAL = "classical"
_CELLS = 4  # rows and columns in which directions of edges are counted
_DIRECTIONS = 8
_BATCH = 32  # frames that go through a network at once


@runtime_checkable
class Extractor(Protocol):
    """`name` and `note` say in the report what the scores rest on."""

    name: str
    note: str

    def of_frames(self, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F D"]:
        """A vector of length 1 for each frame."""
        ...

    def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"] | None:
        """Vectors to be compared with those of frames; None if it knows no text."""
        ...


class ClassicalExtractor:
    """Shares of 64 colours, and of the directions of edges in 4 x 4 cells. Needs nothing."""

    name = CLASSICAL
    note = (
        "colour and gradient statistics: they tell whether scenes look alike, not what they show; "
        "for that name a folder with CLIP or DINOv2"
    )

    def of_frames(self, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F D"]:
        """Roots of shares, so that their products are Bhattacharyya's coefficients."""
        parts = [np.sqrt(colours(frames)), np.sqrt(_edges(frames))]
        return _unit(np.concatenate(parts, axis=1))

    def of_texts(self, texts: Sequence[str]) -> None:
        """No network for texts: always None."""


class NetworkExtractor:
    """CLIP's image and text features, or DINOv2's class token.

    Raises ValueError, saying what is missing, if the folder holds neither, or torch is not there.
    Weights are read from safetensors only.
    """

    def __init__(self, folder: Path):
        self._torch, transformers = _torch_and_transformers(folder)
        kind = _model_type(folder)
        read: dict[str, Any] = {"local_files_only": True}
        try:
            if kind == "clip":
                model = transformers.CLIPModel
                self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **read)
            else:
                model, self._tokenizer = transformers.Dinov2Model, None
            self._model = model.from_pretrained(folder, use_safetensors=True, **read).eval()
        except Exception as error:  # transformers raises many kinds
            raise ValueError(f"{folder}: cannot be read as {kind} ({error})") from error
        self.name = f"{kind}, {folder.absolute().name}"
        self.note = "image and text features" if kind == "clip" else "image features; knows no text"
        vision = self._model.config.vision_config if kind == "clip" else self._model.config
        self._side: int = 224 if kind == "dinov2" else vision.image_size
        self._mean, self._deviation = _normalisation(folder, kind)

    def of_frames(self, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F D"]:
        """Short sides are scaled to the network's and the middle is taken."""
        pictures = np.stack([_middle(frame, self._side) for frame in frames])
        pixels = ((pictures / 255 - self._mean) / self._deviation).transpose(0, 3, 1, 2)
        parts = []
        with self._torch.no_grad():
            for start in range(0, len(pixels), _BATCH):
                batch = pixels[start : start + _BATCH].astype(np.float32)
                inputs = {"pixel_values": self._torch.from_numpy(batch)}
                if self._tokenizer is None:
                    found = self._model(**inputs).last_hidden_state[:, 0]
                else:
                    found = _tensor(self._model.get_image_features(**inputs))
                parts.append(found.numpy())
        return _unit(np.concatenate(parts))

    def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"] | None:
        """Longer texts than the network reads are truncated."""
        if self._tokenizer is None:
            return None
        most = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        with self._torch.no_grad():
            return _unit(_tensor(self._model.get_text_features(**inputs)).numpy())


def open_extractor(name: str) -> Extractor:
    """`classical`, or the folder of a CLIP or DINOv2 model. Raises ValueError as the classes do."""
    return ClassicalExtractor() if name == CLASSICAL else NetworkExtractor(Path(name))


def _torch_and_transformers(folder: Path) -> tuple[Any, Any]:
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise ValueError(
            f"--extractor={folder}: needs torch, which is not installed: {how_to_install('eval')}; "
            f"--extractor={CLASSICAL} needs nothing"
        ) from error
    import transformers

    return torch, transformers


def _model_type(folder: Path) -> str:
    try:
        kind = read_json(folder / "config.json")["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"--extractor={folder}: found no config.json with a model_type, needs {CLASSICAL} or a "
            "folder with CLIP or DINOv2"
        ) from error
    if kind not in ("clip", "dinov2"):
        raise ValueError(f"--extractor={folder}: found a {kind!r}, needs a clip or dinov2")
    return kind


def _normalisation(
    folder: Path, kind: str
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Mean and deviation of the pixels, from the folder or as usual for the kind."""
    usual = {
        "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    }
    try:
        told = read_json(folder / "preprocessor_config.json")
        found = told["image_mean"], told["image_std"]
    except (OSError, ValueError, LookupError, TypeError):
        found = usual[kind]
    return np.array(found[0], np.float64), np.array(found[1], np.float64)


def _tensor(output: Any) -> Any:
    """Versions of transformers differ in whether features come alone or in an output."""
    return output if hasattr(output, "numpy") else output.pooler_output


def _middle(frame: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    height, width = frame.shape[:2]
    shorter = min(height, width)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    box = (left, top, left + shorter, top + shorter)
    picture = Image.fromarray(frame)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))


def _edges(frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F D"]:
    """Histogram of the slopes of each cell by direction; all add up to 1."""
    grey = luma(frames)
    down, right = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    direction = np.minimum((angle / np.pi * _DIRECTIONS).astype(int), _DIRECTIONS - 1)
    height, width = grey.shape[1:]
    rows = np.arange(height) * _CELLS // height
    columns = np.arange(width) * _CELLS // width
    cell = (rows[:, None] * _CELLS + columns)[None] * _DIRECTIONS + direction
    size = _CELLS * _CELLS * _DIRECTIONS
    counts = np.stack(
        [
            np.bincount(c.ravel(), s.ravel(), size)
            for c, s in zip(np.broadcast_to(cell, strength.shape), strength, strict=True)
        ]
    )
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1e-12), 1 / size)


def _unit(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
