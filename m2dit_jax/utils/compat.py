"""Private and changing parts of other libraries: the only file that knows them.

Each function says why nothing public does the same. All were run with Python 3.11, jax 0.10.2,
flax 0.12.8, orbax-checkpoint 0.12.8, PyAV 18.1, and with Python 3.13, jax 0.12.0.1, flax 0.12.12,
orbax-checkpoint 0.12.8, PyAV 19.0.2.

What is imported is imported within the functions: this file is imported by all rooms, and jax
takes a second, orbax another two. Modules that jax documents as experimental (`mesh_utils`,
`multihost_utils`, `topologies`, the Pallas kernels) are imported where they are used.
"""

import io
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2dit_jax.utils.files import atomic_write

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr


def coordination_client() -> Any:
    """JAX's client of the service through which the processes of a run talk, None without one.

    Public barriers are made of collectives, and those give up after half a minute on CPUs; the
    service's own barrier waits for as long as it is told to, and carries text.
    """
    from jax._src.distributed import global_state

    return global_state.client


def failures_of_event_thread(board: Any) -> list[OSError]:
    """The errors, from now on, of the thread in which a tensorboardX SummaryWriter writes.

    It would end with a traceback, and who writes on would wait for it forever. Nothing public
    writes events in the caller's thread.
    """
    failures: list[OSError] = []

    class Writer:
        def __init__(self, writer: Any):
            self._writer = writer

        def write_event(self, event: Any) -> None:
            try:
                self._writer.write_event(event)
            except OSError as error:
                failures.append(error)

        def flush(self) -> None:
            try:
                self._writer.flush()
            except OSError as error:
                failures.append(error)

    thread = board.file_writer.event_writer._worker
    thread._record_writer = Writer(thread._record_writer)
    return failures


def write_compiled_whole() -> None:
    """Has JAX's cache write what was compiled whole or not at all.

    It writes in place, and never again what is there: half a file, left by a kill or a full disk,
    would be warned of and compiled anew at every start. Nothing public writes in another way.
    """
    from jax._src import lru_cache

    put = lru_cache.LRUCache.put
    if put.__module__ == __name__:
        return

    def put_whole(self: Any, key: str, value: bytes) -> None:
        path = Path(str(self.path)) / f"{key}{lru_cache._CACHE_SUFFIX}"
        if self.eviction_enabled or not path.parent.is_dir():  # with a lock; in the cloud
            put(self, key, value)
        elif not path.exists():
            with atomic_write(path) as part:
                part.write_bytes(value)

    lru_cache.LRUCache.put = put_whole


def computable_mask() -> Any:
    """The base class of splash attention's masks that the kernel computes block by block.

    The public ones are fixed patterns, or hold an array of all pairs of tokens, 300 MB at full
    size.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    return splash_attention_mask._ComputableMask


def with_outputs(closed: "ClosedJaxpr", outputs: Sequence[Any]) -> "ClosedJaxpr":
    """The same program with these of its variables as results.

    The names of the old results must go, for a Jaxpr checks that there are as many names as
    results, and nothing public takes them off.
    """
    from jax.extend.core import ClosedJaxpr, Jaxpr

    jaxpr = closed.jaxpr
    info = jaxpr.debug_info._replace(result_paths=None)
    changed = Jaxpr(jaxpr.constvars, jaxpr.invars, list(outputs), jaxpr.eqns, debug_info=info)
    return ClosedJaxpr(changed, closed.consts)


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints in an Orbax folder are finished, in no order.

    A CheckpointManager tells the same, but makes the folder and threads of its own.
    """
    from orbax.checkpoint import utils

    return list(utils.checkpoint_steps(folder))


def checkpoint_manager(folder: Path, options: Any, on_saved: Callable[[Path], None]) -> Any:
    """A CheckpointManager that calls a function with each checkpoint's folder once it is whole.

    That is in the thread that saves, of the first process, before old ones are deleted, and saving
    has come to its end only after it. Orbax's own hook is called before the folder has its name,
    and does not get it.
    """
    import orbax.checkpoint as ocp

    class Manager(ocp.CheckpointManager):
        def _finalize_checkpoint(self, step: int) -> None:
            super()._finalize_checkpoint(step)
            saved = Path(self.directory) / str(step)
            if jax.process_index() == 0 and saved.is_dir():
                on_saved(saved)

    import jax

    return Manager(folder, options=options)


def orbax_array_spec(
    info: Any, shape: Sequence[int], chunk: Sequence[int], dtype: Any
) -> dict[str, Any]:
    """The spec with which TensorStore creates a leaf's array just as Orbax's own handlers do.

    `info` is the leaf's ParamInfo. Orbax's public handlers take whole arrays only.
    """
    import jax
    from orbax.checkpoint import type_handlers

    return type_handlers.get_json_tspec_write(
        info,
        use_ocdbt=True,
        global_shape=tuple(shape),
        local_shape=tuple(chunk),
        dtype=dtype,
        process_index=jax.process_index(),
    )


def orbax_commit(write: Coroutine[Any, Any, None]) -> Any:
    """A future, as a handler's `serialize` returns it, that writes once Orbax has made the folder.

    Orbax's own handlers use the same; a future of the standard library has another interface.
    """
    from orbax.checkpoint import future

    return future.CommitFutureAwaitingContractedSignals(write)


def open_video(
    source: Path | io.RawIOBase, options: dict[str, str], timeout: float | None = None
) -> Any:
    """`av.open` for reading, of files whose titles are not in UTF-8 too.

    PyAV up to 18 raises for such titles unless told to ignore them; from 19 on it does so itself,
    and no longer knows the argument.
    """
    import av

    known: dict[str, Any] = (
        {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    )
    file: Any = str(source.absolute()) if isinstance(source, Path) else source
    return av.open(file, options=dict(options), timeout=timeout, **known)
