"""Networks in safetensors files, as diffusers and transformers name them; one tensor at a time.

Reading is the safetensors package's. Writing is ours, tensor by tensor, since the package needs
all tensors of a file in memory; the bytes are the same. The format: the length of the header (8
bytes), the header as JSON (dtype, shape and place of every tensor), then the numbers, all
little-endian.
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from m2dit_jax.weights.lazy import Tensor

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
STEMS = ("diffusion_pytorch_model", "model")  # of diffusers, of transformers
_NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
_INDEX = ".index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def is_weights_file(path: Path) -> bool:
    """True for a file of weights in a form of PyTorch's, and for an index of such files."""
    return path.suffix in (".safetensors", *_PICKLED) or path.name.endswith(_INDEX)


def open_safetensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of a network by name, from one file or from the shards of an index.

    Only headers are read. Raises ValueError if files are missing or damaged, or contradict the
    index.
    """
    files = [directory / f"{stem}.safetensors" for stem in STEMS]
    indices = [directory / f"{stem}.safetensors{_INDEX}" for stem in STEMS]
    found = [path for path in files + indices if path.is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{directory}: needs one file of weights or one index, found "
            f"{' and '.join(path.name for path in found)}; delete those that are not meant"
        )
    if not found:
        raise ValueError(_no_weights(directory))
    return _open_shards(found[0]) if found[0] in indices else open_file(found[0])


def weights_files(directory: Path) -> list[Path]:
    """The files that `open_safetensors` reads: one of weights, or an index and its shards.

    Empty if there are none. Raises ValueError for an index that is none.
    """
    found = [directory / f"{stem}.safetensors{end}" for stem in STEMS for end in ("", _INDEX)]
    found = [path for path in found if path.is_file()]
    indices = [path for path in found if path.name.endswith(_INDEX)]
    shards = {name for index in indices for name in _read_index(index).values()}
    return found + [directory / name for name in sorted(shards)]


def write_safetensors(
    directory: Path, stem: str, tensors: Mapping[str, Tensor], max_shard_bytes: int
) -> None:
    """Writes one file or, if that would be larger than `max_shard_bytes`, shards and an index.

    Tensors are read in the order of the mapping, whatever their places in the files.
    """
    shards = list(_shards(tensors, max_shard_bytes))
    names = [f"{stem}.safetensors"]
    if len(shards) > 1:
        numbers = range(1, len(shards) + 1)
        names = [f"{stem}-{number:05}-of-{len(shards):05}.safetensors" for number in numbers]
    places: dict[str, tuple[Path, int]] = {}
    for name, shard in zip(names, shards, strict=True):
        places |= _write_header(directory / name, shard)
    for name, tensor in tensors.items():
        path, offset = places[name]
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(tensor.read()).view(np.uint8).data)
    if len(shards) == 1:
        return
    weight_map = {name: path.name for name, (path, _) in places.items()}
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = json.dumps(index, indent=2) + "\n"
    (directory / f"{stem}.safetensors{_INDEX}").write_text(text, encoding="utf-8")


# --- reading


def _no_weights(directory: Path) -> str:
    needed = " or ".join(f"{stem}.safetensors" for stem in STEMS)
    others = sorted(path.name for path in directory.glob("*") if is_weights_file(path))
    message = f"{directory}: needs {needed} (or shards with {STEMS[0]}.safetensors.index.json)"
    if not others:
        return f"{message}, found no weights"
    message += f", found only {', '.join(others[:5])}"
    if any(name.endswith(_PICKLED) for name in others):
        message += (
            "; pickled files can run any code and are not read: download the safetensors files, "
            "or load the model in PyTorch and call save_pretrained(..., safe_serialization=True)"
        )
    return message


def _read_index(index: Path) -> dict[str, str]:
    """The name of the shard of each tensor."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f'{index}: needs JSON with a "weight_map" from names to files ({error!r:.300})'
        ) from error


def _open_shards(index: Path) -> dict[str, Tensor]:
    weight_map = _read_index(index)
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{index}: shards must lie beside it, found {outside[0]!r}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index.parent}: lacks {len(missing)} of the {len(names)} shards that {index.name} "
            f"names: {', '.join(missing[:5])}; download them"
        )
    tensors: dict[str, Tensor] = {}
    for shard in names:
        held = open_file(index.parent / shard)
        twice = sorted(tensors.keys() & held.keys())
        if twice:
            raise ValueError(
                f"{index.parent / shard}: holds {twice[0]} and {len(twice) - 1} more that another "
                "shard holds too; every tensor must be in one shard"
            )
        absent = sorted(key for key in weight_map.keys() - held.keys() if weight_map[key] == shard)
        if absent:
            raise ValueError(
                f"{index.parent / shard}: lacks {absent[0]} and {len(absent) - 1} more that "
                f"{index.name} says it holds; the index and the shards must be of one model"
            )
        tensors |= held
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file has beside its tensors. Raises ValueError if it is damaged."""
    open_file(path)  # says more of a damaged header
    return _read_header(path).get("__metadata__") or {}


def open_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; only its header is read. Raises ValueError if damaged."""
    try:
        # "pread" rather than "mmap", whose pages count as memory of the process: reading 1.34 GB
        # tensor by tensor took 32 MB with it, as with our own reader before, and 1312 MB mapped.
        file = safe_open(path, framework="np", backend="pread")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise _damaged(path, f"{error}{_culprit(path)}") from error
    _read_header(path)  # for names that are there twice, of which the package takes the last
    return {
        name: Tensor(
            tuple(part.get_shape()),
            _dtype(path, name, part.get_dtype()),
            partial(_read, path, file, name),
        )
        for name, part in slices.items()
    }


def _read_header(path: Path) -> Any:
    """The header as JSON. Raises ValueError if a name is in it twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise _damaged(path, f"its header has {name} twice")
            found[name] = value
        return found

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length), object_pairs_hook=once)


def _culprit(path: Path) -> str:
    """The first tensor whose entry in the header cannot be, which the package may not name."""
    try:
        header = _read_header(path)
    except (ValueError, RecursionError, OSError, MemoryError, OverflowError):
        return ""
    for name, entry in header.items() if isinstance(header, dict) else ():
        if name != "__metadata__" and not _is_possible(entry):
            return f"; tensor {name}: {str(entry)[:200]}"
    return ""


def _is_possible(entry: Any) -> bool:
    """Whether dtype, shape and offsets are of the right types and belong together."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = (_counts(entry.get(name)) for name in ("shape", "data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        return False
    dtype = DTYPES.get(entry["dtype"])
    return dtype is None or math.prod(shape) * dtype.itemsize == offsets[1] - offsets[0]


def _counts(value: Any) -> list[int] | None:
    """A list of whole numbers from 0 on; None for anything else."""
    whole = isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
    return value if whole else None


def _dtype(path: Path, name: str, code: str) -> np.dtype:
    if code not in DTYPES:
        raise ValueError(f"{path}: {name} has the dtype {code}, needs one of {', '.join(DTYPES)}")
    return DTYPES[code]


def _read(path: Path, file: safe_open, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, f"it became shorter while it was read: {error}") from error


def _damaged(path: Path, why: Any) -> ValueError:
    return ValueError(f"{path}: damaged or truncated ({why}); download or copy it again")


# --- writing


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    # The order of the safetensors package: large dtypes first, which keeps every tensor aligned
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    shard: dict[str, Tensor] = {}
    size = 0
    for name in names:
        if shard and size + tensors[name].nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensors[name]
        size += tensors[name].nbytes
    yield shard


def _write_header(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Path, int]]:
    """Begins a file; returns its path and the offset in it for each tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAME_OF_DTYPE[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
    start = 8 + len(text)
    return {name: (path, start + header[name]["data_offsets"][0]) for name in tensors}
