"""The folder of a run: one run at a time, and always the same config."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flax.traverse_util import flatten_dict

from m2dit_jax.config.schema import Config
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.run_folder import CheckpointError


@contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """A context that makes the workdir and keeps other runs from training in it.

    Raises CheckpointError if it is in use or cannot be written to.
    """
    with ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(workdir / ".lock"))
        except InUse as error:
            raise CheckpointError(f"{workdir}: another process is training there") from error
        except OSError as error:
            raise CheckpointError(
                f"{workdir}: {error.strerror}; needs a folder to write to"
            ) from error
        yield


def check_same_config(config: Config, workdir: Path) -> None:
    """The workdir's run must have this config, or ValueError names the fields that differ.

    The mesh may be another one: a checkpoint can be read onto any.
    """
    if run_folder.latest_step(workdir) is None:
        return
    there, here = (
        flatten_dict(c.to_dict(), sep=".") for c in (run_folder.load_config(workdir), config)
    )
    absent = "no such field"
    differing = [
        f"  config.{field}: there {there.get(field, absent)!r}, here {here.get(field, absent)!r}"
        for field in sorted(there.keys() | here.keys())
        if there.get(field, absent) != here.get(field, absent) and not field.startswith("mesh.")
    ]
    if differing:
        raise ValueError(
            "\n".join([f"{workdir} holds a run with another config:", *differing])
            + "\nUse another --workdir, or the same config to go on. (More steps are another config"
            " too: the learning rate of every step depends on their number.)"
        )
