"""Features of frames and texts, by which the scores of real video compare them.

CLIP, DINO and DINOv2 come through transformers from a folder that the user names, and need torch,
which is optional: transformers has no other implementation of them any more. Without, colours and
edges must do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
STATISTICS_SIDE = 128  # pixels of the short side that colours, edges, light and motion are told by
NETWORKS = {"clip": "CLIP", "vit": "DINO", "dinov2": "DINOv2"}  # names of the model_types
_CELLS = 4  # rows and columns in which directions of edges are counted
_DIRECTIONS = 8
_BATCH = 32  # frames that go through a network at once
_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # mean and deviation of its pixels


@runtime_checkable
class Extractor(Protocol):
    """`name` and `note` say in the report what the scores rest on.

    `side` is the short side, in pixels, of the pictures that it looks at.
    """

    name: str
    note: str
    side: int

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
    side = STATISTICS_SIDE

    def of_frames(self, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F D"]:
        """Roots of shares, so that their products are Bhattacharyya's coefficients."""
        parts = [np.sqrt(colours(frames)), np.sqrt(_edges(frames))]
        return _unit(np.concatenate(parts, axis=1))

    def of_texts(self, texts: Sequence[str]) -> None:
        """No network for texts: always None."""


class NetworkExtractor:
    """CLIP's image and text features, or the class token of DINO or DINOv2.

    Raises ValueError, naming the flag and what is missing, if the folder holds none of `kinds`, or
    torch is not there. Weights are read from safetensors only.
    """

    def __init__(
        self, folder: Path, flag: str = "--extractor", kinds: Sequence[str] = tuple(NETWORKS)
    ):
        wanted = f"a folder with {' or '.join(NETWORKS[kind] for kind in kinds)}"
        if flag == "--extractor":
            wanted = f"{CLASSICAL} or {wanted}"
        if not folder.is_dir():
            raise ValueError(f"{flag}={folder}: no such folder, needs {wanted}")
        self._torch, transformers = _torch_and_transformers(folder, flag)
        kind = _model_type(folder, flag, kinds, wanted)
        self.kind = kind
        read: dict[str, Any] = {"local_files_only": True}
        try:
            self._tokenizer: Any = None
            if kind == "clip":
                model = transformers.CLIPModel
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **read)
            elif kind == "vit":
                model = transformers.ViTModel
                read["add_pooling_layer"] = False
            else:
                model = transformers.Dinov2Model
            self._model = model.from_pretrained(folder, use_safetensors=True, **read).eval()
        except Exception as error:  # transformers raises many kinds
            raise ValueError(f"{folder}: cannot be read as {kind} ({error})") from error
        self.name = f"{kind}, {folder.absolute().name}"
        self.note = "image and text features" if kind == "clip" else "image features; knows no text"
        vision = self._model.config.vision_config if kind == "clip" else self._model.config
        self.side = 224 if kind == "dinov2" else int(vision.image_size)
        # VBench shows DINO the whole picture, CLIP its middle.
        self._options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
        self._mean, self._deviation = _normalisation(folder, kind)

    def of_frames(self, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F D"]:
        """Short sides are scaled to the network's; all but DINO see the middle of long ones."""
        fit = _scaled if self.kind == "vit" else _middle
        pictures = np.stack([fit(frame, self.side) for frame in frames])
        parts = []
        with self._torch.no_grad():
            for start in range(0, len(pictures), _BATCH):
                pixels = (pictures[start : start + _BATCH] / 255 - self._mean) / self._deviation
                batch = pixels.transpose(0, 3, 1, 2).astype(np.float32)
                inputs = {"pixel_values": self._torch.from_numpy(batch)}
                if self._tokenizer is None:
                    found = self._model(**inputs, **self._options).last_hidden_state[:, 0]
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


@dataclass(frozen=True)
class Extractors:
    """What features come from: `main` for most scores, DINO for subjects, CLIP for backgrounds."""

    main: Extractor
    dino: Extractor | None = None
    clip: Extractor | None = None

    @property
    def side(self) -> int:
        """The short side of frames that is enough for all of them."""
        used = [e.side for e in (self.main, self.dino, self.clip) if e is not None]
        return max(STATISTICS_SIDE, *used)

    @property
    def names(self) -> dict[str, str]:
        """What serves for which scores."""
        found = {"main": self.main, "subject": self.dino, "background": self.clip}
        found["actors"] = self.of_actors
        return {use: e.name for use, e in found.items() if e is not None}

    @property
    def of_actors(self) -> Extractor:
        """What actors are compared by."""
        return self.clip or self.main


def open_extractors(main: str, dino: Path | None = None, clip: Path | None = None) -> Extractors:
    """The extractors that the flags name; the main one serves as DINO or CLIP too if it is one.

    Raises ValueError as `NetworkExtractor` does.
    """
    first = open_extractor(main)
    kind = first.kind if isinstance(first, NetworkExtractor) else ""
    of_dino = of_clip = None
    if dino is not None:
        of_dino = NetworkExtractor(dino, "--dino", ("vit", "dinov2"))
    elif kind in ("vit", "dinov2"):
        of_dino = first
    if clip is not None:
        of_clip = NetworkExtractor(clip, "--clip", ("clip",))
    elif kind == "clip":
        of_clip = first
    return Extractors(first, of_dino, of_clip)


def open_extractor(name: str) -> Extractor:
    """`classical`, or the folder of a network. Raises ValueError as the classes do."""
    return ClassicalExtractor() if name == CLASSICAL else NetworkExtractor(Path(name))


def _torch_and_transformers(folder: Path, flag: str) -> tuple[Any, Any]:
    try:
        torch = import_module("torch")
    except ImportError as error:
        without = f"; {flag}={CLASSICAL} needs nothing" if flag == "--extractor" else ""
        raise ValueError(
            f"{flag}={folder}: needs torch, which is not installed: {how_to_install('eval')}"
            f"{without}"
        ) from error
    import transformers

    return torch, transformers


def _model_type(folder: Path, flag: str, kinds: Sequence[str], wanted: str) -> str:
    """The model_type of the folder's config, which must be one of `kinds`."""
    try:
        kind = read_json(folder / "config.json")["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{flag}={folder}: found no config.json with a model_type, needs {wanted}"
        ) from error
    if kind not in kinds:
        raise ValueError(f"{flag}={folder}: found a {kind!r}, needs a {' or '.join(kinds)}")
    return kind


def _normalisation(
    folder: Path, kind: str
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Mean and deviation of the pixels, from the folder or as usual for the kind."""
    usual = {
        "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        "dinov2": _IMAGENET,
        "vit": _IMAGENET,
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


def _scaled(frame: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The whole picture, its short side scaled."""
    factor = side / min(frame.shape[:2])
    size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


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
