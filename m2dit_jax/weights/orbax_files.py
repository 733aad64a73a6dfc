"""Orbax checkpoints of parameters, written and read piece by piece.

Any Orbax reads them (`ocp.StandardCheckpointer().restore(path)`), as NumPy arrays unless it is
told otherwise.
"""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import unflatten_dict

from m2dit_jax.utils.compat import orbax_array_spec, orbax_commit
from m2dit_jax.utils.errors import raise_interrupt
from m2dit_jax.weights.lazy import Leaf, Tensor
from m2dit_jax.weights.mapping import Shape, check_shapes

_HEADER = "/.zarray"  # the key of what describes an array ends so
_IN_FLIGHT = 2  # pieces: one is compressed and written while the next is read


class _LeafHandler(ocp.type_handlers.NumpyHandler):
    """Writes leaves as if they were NumPy arrays, but never holds more than a few pieces."""

    async def serialize(self, values: Sequence[Any], infos, args=None):
        return [orbax_commit(self._write_all(values, infos))]

    async def _write_all(
        self, leaves: Sequence[Leaf], infos: Sequence[ocp.type_handlers.ParamInfo]
    ) -> None:
        writing: list[ts.WriteFutures] = []
        for leaf, info in zip(leaves, infos, strict=True):
            await info.await_path_creation()
            store = await ts.open(_write_spec(leaf, info), create=True, context=info.ts_context)
            for layer, piece in enumerate(leaf.pieces):
                place = store[layer] if leaf.stacked else store
                writing.append(
                    place.write(piece.read(), can_reference_source_data_indefinitely=True)
                )
                if len(writing) > _IN_FLIGHT:
                    await writing.pop(0)
        for write in writing:
            await write


def write_orbax(path: Path, leaves: Mapping[str, Leaf]) -> None:
    """Writes leaves, given by their dotted names, as a checkpoint at `path`, which must not exist.

    The chunks are single layers. What is there before all is written has another name.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (Leaf, _LeafHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer, without_tracebacks():
        tree = unflatten_dict(dict(leaves), sep=".")
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))


def open_orbax(
    path: Path, shapes: Mapping[str, Shape], stacked: Collection[str]
) -> dict[str, Leaf]:
    """The leaves, with these names and shapes, of a checkpoint; those in `stacked` by layers.

    Reads metadata only. Raises ValueError if it is damaged, or with all names that are missing,
    unexpected or of another shape.
    """
    stores = _open_all(path)
    check_shapes({name: tuple(store.shape) for name, store in stores.items()}, shapes)
    return {name: _leaf(path, stores[name], name in stacked) for name in shapes}


def open_arrays(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """All arrays of a checkpoint whose dotted names begin with `prefix`, by the rest of the name.

    Reads metadata only. Raises ValueError if it is damaged.
    """
    start = f"{prefix}." if prefix else ""
    return {
        name.removeprefix(start): _tensor(path, store)
        for name, store in _open_all(path, start).items()
    }


def _open_all(path: Path, start: str = "") -> dict[str, ts.TensorStore]:
    """The arrays of a checkpoint whose names start so."""
    context = ts.Context()  # one for all, so that the index of the checkpoint is read once
    with _damage_named(path):
        if not (path / "manifest.ocdbt").is_file():  # without it tensorstore finds nothing
            raise FileNotFoundError("no manifest.ocdbt in it")
        database = ts.KvStore.open(_database(path), context=context).result()
        names = [
            key.decode().removesuffix(_HEADER)
            for key in database.list().result()
            if key.decode().startswith(start) and key.decode().endswith(_HEADER)
        ]
        return {name: _open(path, name, context) for name in names}


def _write_spec(leaf: Leaf, info: ocp.type_handlers.ParamInfo) -> ts.Spec:
    """Orbax's own description of the array, in chunks of one layer."""
    chunk = (1, *leaf.shape[1:]) if leaf.stacked else leaf.shape
    return ts.Spec(orbax_array_spec(info, leaf.shape, chunk, leaf.dtype))


def _database(path: Path) -> dict[str, Any]:
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path.absolute()}/"}}


def _open(path: Path, name: str, context: ts.Context) -> ts.TensorStore:
    spec = {
        "driver": "zarr",
        "kvstore": {**_database(path), "path": f"{name}/"},
        "fill_missing_data_reads": False,  # a lost chunk must not read as zeros
    }
    return ts.open(spec, open=True, read=True, context=context).result()


def _leaf(path: Path, store: ts.TensorStore, stacked: bool) -> Leaf:
    layers = [store[layer] for layer in range(store.shape[0])] if stacked else [store]
    return Leaf(tuple(_tensor(path, layer) for layer in layers), stacked)


def _tensor(path: Path, store: ts.TensorStore) -> Tensor:
    return Tensor(tuple(store.shape), store.dtype.numpy_dtype, partial(_read, path, store))


def _read(path: Path, store: ts.TensorStore) -> np.ndarray:
    with _damage_named(path):
        return store.read().result()


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise just that for truncated files
        raise_interrupt(error)
        first_line = (str(error) or repr(error)).splitlines()[0][:300]
        raise ValueError(
            f"{path}: needs a whole Orbax checkpoint ({first_line}); convert or copy it again"
        ) from error


@contextmanager
def without_tracebacks() -> Iterator[None]:
    """A context without the tracebacks, many pages, that Orbax logs of what it then raises.

    Where several writes fail, tensorstore tells an event loop of the second that the first has
    ended; it prints that, too.
    """
    logger, excepthook, unraisablehook = (
        logging.getLogger("absl"),
        sys.excepthook,
        sys.unraisablehook,
    )

    def without(record: logging.LogRecord) -> bool:
        return not record.exc_info

    def is_late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    def excepthook_without(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not is_late(error):
            excepthook(kind, error, trace)

    def unraisablehook_without(unraisable: Any) -> None:
        if not is_late(unraisable.exc_value):
            unraisablehook(unraisable)

    logger.addFilter(without)
    sys.excepthook, sys.unraisablehook = excepthook_without, unraisablehook_without
    try:
        yield
    finally:
        logger.removeFilter(without)
        sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
