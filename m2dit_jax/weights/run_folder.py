"""What a training run leaves for others to read: its config and the weights to sample with."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from ml_collections import ConfigDict

from m2dit_jax.parallel.rules import shardings
from m2dit_jax.utils.compat import checkpoint_steps
from m2dit_jax.weights.fingerprint import fingerprint

Params = Any
FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint that is missing or damaged."""


def latest_step(workdir: Path) -> int | None:
    """The step of the latest checkpoint, None if there is none."""
    folder = workdir / FOLDER
    return max(checkpoint_steps(folder), default=None) if folder.is_dir() else None


def load_config(workdir: Path) -> ConfigDict:
    """The config of the latest checkpoint. Raises CheckpointError if there is none."""
    step_folder = _latest_folder(workdir)
    try:
        # Orbax's file, read without orbax: its handler would take a second to set up.
        config = json.loads((step_folder / "config" / "metadata").read_text(encoding="utf-8"))
        config = ConfigDict(_with_tuples(config))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(step_folder, error) from error
    return config.lock()


def load_for_sampling(workdir: Path, mesh: Mesh | None = None) -> tuple[ConfigDict, Params, int]:
    """Config, averaged weights and step of the latest checkpoint; the rest is not read.

    Where no average was kept, the weights are the latest. They are sharded over the mesh, or on the
    first device. Raises CheckpointError if there is none.
    """
    step_folder = _latest_folder(workdir)
    config = load_config(workdir)
    handler: Any = ocp.PyTreeCheckpointHandler()
    here = SingleDeviceSharding(jax.local_devices()[0])
    try:
        saved = handler.metadata(step_folder / "state").tree
        name = "ema" if saved.get("ema") is not None else "params"
        places = jax.tree.map(lambda _: here, saved[name])
        if mesh is not None:
            places = shardings(saved[name], mesh)
        weights = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            saved[name],
            places,
        )
        restored = ocp.PyTreeCheckpointer().restore(
            step_folder / "state",
            args=ocp.args.PyTreeRestore(
                item={name: weights},
                restore_args=ocp.checkpoint_utils.construct_restore_args({name: weights}),
                partial_restore=True,
            ),
        )
    except Exception as error:  # as above
        raise damaged(step_folder, error) from error
    return config, _with_int_keys(restored[name]), int(step_folder.name)


def checkpoint_fingerprint(workdir: Path) -> str:
    """Hash of the latest checkpoint's weights. Raises CheckpointError if there is none."""
    return fingerprint(_latest_folder(workdir), ("state",))


def _latest_folder(workdir: Path) -> Path:
    """Raises CheckpointError, saying what would be right, if there is no checkpoint."""
    workdir = Path(workdir).absolute()
    right = "needs the --workdir of a training run, the folder that holds checkpoints/"
    if not workdir.is_dir():
        raise CheckpointError(f"{workdir}: no such folder; {right}")
    step = latest_step(workdir)
    if step is not None:
        return workdir / FOLDER / str(step)
    if workdir.name == FOLDER or workdir.parent.name == FOLDER:
        outer = workdir.parent if workdir.name == FOLDER else workdir.parent.parent
        raise CheckpointError(f"{workdir}: {right}; try {outer}")
    if (workdir / FOLDER).is_dir():
        raise CheckpointError(
            f"{workdir}: holds no checkpoint yet; the training there has not come to its first "
            "save (config.train.checkpoint_every)"
        )
    raise CheckpointError(f"{workdir}: holds no checkpoint; {right}")


def _with_tuples(fields: Any) -> Any:
    """Configs hold tuples, which JSON knows only as lists."""
    if isinstance(fields, dict):
        return {name: _with_tuples(value) for name, value in fields.items()}
    return tuple(fields) if isinstance(fields, list) else fields


def _with_int_keys(params: Params) -> Params:
    """Blocks in a list are numbered by int keys, which the files can only hold as text."""
    if not isinstance(params, dict):
        return params
    return {
        int(key) if key.isdecimal() else key: _with_int_keys(value) for key, value in params.items()
    }


def damaged(step_folder: Path, error: Exception) -> CheckpointError:
    """The error for a checkpoint that cannot be read, with its cause and what to do."""
    cause = error.__cause__ or error  # orbax wraps what tensorstore says
    first_line = (str(cause) or repr(cause)).splitlines()[0][:300]
    return CheckpointError(
        f"{step_folder}: the checkpoint is damaged ({first_line}); delete this folder to use the "
        "one before it, if there is one"
    )
