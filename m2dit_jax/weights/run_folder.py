"""What a training run leaves for others to read: its config and the weights to sample with."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from ml_collections import ConfigDict

from m2dit_jax.parallel.processes import is_first
from m2dit_jax.parallel.rules import shardings
from m2dit_jax.utils import digests
from m2dit_jax.utils.compat import checkpoint_steps
from m2dit_jax.utils.errors import Superseded, raise_interrupt
from m2dit_jax.weights.fingerprint import content_fingerprint, fingerprint
from m2dit_jax.weights.finite import check_params
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.networks import ORBAX
from m2dit_jax.weights.orbax_files import open_arrays

Params = Any
FOLDER = "checkpoints"
WEIGHTS = ("ema", "params")  # moving average, and what the optimizer made of them last
RECORD = "m2dit.json"  # in a converted run: where its weights are from, and the run's config
FORMAT = 1  # of that file


class CheckpointError(ValueError):
    """A checkpoint that is missing or damaged."""


class CheckpointGone(CheckpointError, Superseded):
    """A checkpoint in whose place training has put a newer one."""


def steps(workdir: Path) -> list[int]:
    """The steps of all checkpoints, damaged ones too, the latest first."""
    folder = workdir / FOLDER
    return sorted(checkpoint_steps(folder), reverse=True) if folder.is_dir() else []


def latest_step(workdir: Path) -> int | None:
    """The step of the latest checkpoint, damaged or not; None if there is none."""
    return next(iter(steps(workdir)), None)


def latest_good_step(workdir: Path) -> int | None:
    """The step of the latest checkpoint whose files are as they were written; None without any.

    Says on stderr which newer ones are damaged. All of a checkpoint's files are read, once in a
    process. Raises CheckpointError, naming all of them, if none is good.
    """
    problems: dict[int, str] = {}
    found = steps(workdir)
    for step in found:
        folder = workdir / FOLDER / str(step)
        problem = checkpoint_problem(folder)
        if problem is None:
            _say_damaged(workdir, problems, step)
            return step
        if (latest_step(workdir) or 0) > found[0]:  # training deletes old ones meanwhile
            return latest_good_step(workdir)
        problems[step] = problem
    if problems:
        lines = [f"  {step}: {problem}" for step, problem in problems.items()]
        raise CheckpointError(
            "\n".join([f"{workdir / FOLDER}: every checkpoint is damaged:", *lines])
            + f"\nCopy one again, or {digests.way_out()}; without {FOLDER}/ a training begins anew"
        )
    return None


_found_elsewhere: dict[tuple[str, int], str] = {}  # by folder and its time of change


def count_as_damaged(step_folder: Path, problem: str) -> None:
    """Has `checkpoint_problem` say this of the folder from now on, as another process found it."""
    _found_elsewhere[_identity(step_folder)] = problem


def _identity(folder: Path) -> tuple[str, int]:
    return str(folder.absolute()), folder.stat().st_mtime_ns if folder.exists() else 0


def checkpoint_problem(step_folder: Path, share: tuple[int, int] = (0, 1)) -> str | None:
    """What differs from what was written into the folder of a step; None if it is whole.

    `share` is the part of its files that this process reads, as `digests.differences` has it.
    """
    if problem := _found_elsewhere.get(_identity(step_folder)):
        return problem
    found = digests.differences(step_folder, share=share)
    if found:
        return digests.summary(found)
    try:
        _read_config(step_folder)
    except CheckpointError as error:
        return str(error.__cause__)
    return None if (step_folder / "state").is_dir() else "state/ is missing"


def load_config(workdir: Path) -> ConfigDict:
    """The config of the latest good checkpoint. Raises CheckpointError if there is none."""
    return _read_config(_latest_folder(workdir))


@dataclass(frozen=True)
class TrainedWeights:
    """Weights that training has left: in the folder of a step, or in what `convert` wrote of it.

    `chosen` is one of WEIGHTS, None for the average where one was kept, which sampling uses.
    """

    place: Path
    step: int
    config: ConfigDict
    chosen: str | None
    run: Path | None = None
    """The run whose latest checkpoint it is; None for what was named itself."""

    @property
    def arrays(self) -> Path:
        """The folder that Orbax wrote."""
        return self.place / (ORBAX if is_converted_run(self.place) else "state")

    @cached_property
    def weights(self) -> str:
        """What they are, one of WEIGHTS. Raises ValueError if there is no such thing as chosen."""
        if is_converted_run(self.place):
            there = [read_record(self.place)["weights"]]
        else:
            there = [name for name in WEIGHTS if self._saved().get(name) is not None]
        if not there or self.chosen not in (None, *there):
            raise ValueError(
                f"{self.place}: has the weights {' and '.join(there)}, not {self.chosen} (averages "
                "are kept if config.train.ema_decay is above 0)"
            )
        return self.chosen or there[0]

    @property
    def _prefix(self) -> str:
        """The name that all arrays of the weights begin with."""
        return "" if is_converted_run(self.place) else self.weights

    def _saved(self) -> dict[str, Any]:
        handler: Any = ocp.PyTreeCheckpointHandler()
        with self._errors_named():
            return handler.metadata(self.arrays).tree

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Raises CheckpointGone if training has deleted the checkpoint, CheckpointError else."""
        try:
            yield
        except Exception as error:  # orbax raises just that for truncated files
            raise_interrupt(error)
            if self.run is not None and (latest_step(self.run) or 0) > self.step:
                raise CheckpointGone(
                    f"{self.place}: has been deleted while it was read, as the training there has "
                    "saved a newer checkpoint; the same command takes that one"
                ) from error
            raise damaged(self.place, error) from error

    def tensors(self) -> dict[str, Tensor]:
        """The weights by dotted name, none of them read yet. Raises ValueError if damaged."""

        def read(tensor: Tensor) -> np.ndarray:
            with self._errors_named():
                return tensor.read()

        with self._errors_named():
            found = open_arrays(self.arrays, self._prefix)
        return {name: replace(each, read=partial(read, each)) for name, each in found.items()}

    def load(self, mesh: Mesh | None = None, dtype: Any = None) -> Params:
        """The weights as arrays on the mesh, or on the first device; nothing else is read.

        Every process reads the shards of its own devices. `dtype` is what they are cast to, None
        keeps theirs. Raises CheckpointError if they are damaged, ValueError if some are no numbers.
        """
        saved, prefix = self._saved(), self._prefix
        saved = saved[prefix] if prefix else saved
        here = SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda _: here, saved) if mesh is None else shardings(saved, mesh)
        item = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=place),
            saved,
            places,
        )
        item = {prefix: item} if prefix else item
        with self._errors_named():
            restored = ocp.PyTreeCheckpointer().restore(
                self.arrays,
                args=ocp.args.PyTreeRestore(
                    item=item,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                    partial_restore=True,
                ),
            )
        params = _with_int_keys(restored[prefix] if prefix else restored)
        check_params(self.place, params)
        return params

    def fingerprint(self) -> str:
        """Hash of the names, sizes and ends of the files of the weights."""
        return fingerprint(self.place, (self.arrays.name,))

    def content_fingerprint(self) -> str:
        """Hash of all bytes of the files of the weights."""
        return content_fingerprint(self.place, (self.arrays.name,))


def holds_weights(path: Path) -> bool:
    """Whether `find_weights` takes the path: a run, the folder of a step, or a converted run."""
    return is_converted_run(path) or _is_step_folder(path) or latest_step(path) is not None


def is_converted_run(path: Path) -> bool:
    """Whether a folder holds all networks of a run, as `convert` writes those of its own kind."""
    return (path / RECORD).is_file() and (path / ORBAX).is_dir()


def find_weights(path: Path, chosen: str | None = None) -> TrainedWeights:
    """The weights of a run's latest checkpoint, of the folder of a step, or of a converted run.

    `chosen` as for TrainedWeights. All files are compared with their digests: of a run whose latest
    checkpoint is damaged the newest good one is taken, and that is said. Raises CheckpointError if
    there are none, and if what was named itself is damaged.
    """
    path = Path(path).absolute()
    if is_converted_run(path):
        digests.check(path)
        record = read_record(path)
        config = ConfigDict(_with_tuples(record["config"])).lock()
        return TrainedWeights(path, record["step"], config, chosen)
    if _is_step_folder(path):
        found = digests.differences(path)
        if found:
            raise CheckpointError(f"{path}: {_damaged_text(digests.summary(found))}")
        return TrainedWeights(path, int(path.name), _read_config(path), chosen)
    folder = _latest_folder(path)
    return TrainedWeights(folder, int(folder.name), _read_config(folder), chosen, run=path)


def read_record(path: Path) -> dict[str, Any]:
    """The contents of a converted run's m2dit.json. Raises ValueError if it cannot be read."""
    file = path / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version = record["format"]
        missing = [name for name in ("step", "weights", "config") if name not in record]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: not what m2dit convert writes ({error!r})") from error
    if version != FORMAT or missing:
        raise ValueError(
            f"{file}: needs the format {FORMAT} with step, weights and config, found the format "
            f"{version!r}" + (f" without {', '.join(missing)}" if missing else "")
        )
    return record


def record_text(found: TrainedWeights) -> str:
    """The contents of the m2dit.json of weights that are converted."""
    record = {
        "format": FORMAT,
        "checkpoint": str(found.place),
        "step": found.step,
        "weights": found.weights,
        "config": found.config.to_dict(),
    }
    return json.dumps(record, indent=2) + "\n"


def workdir_of(path: Path) -> Path:
    """The run that the folder of a step is in; any other path as it is."""
    return path.absolute().parents[1] if _is_step_folder(path) else path


def _is_step_folder(path: Path) -> bool:
    path = path.absolute()
    return path.parent.name == FOLDER and path.name.isdecimal() and path.is_dir()


def _read_config(step_folder: Path) -> ConfigDict:
    try:
        # Orbax's file, read without orbax: its handler would take a second to set up.
        config = json.loads((step_folder / "config" / "metadata").read_text(encoding="utf-8"))
        config = ConfigDict(_with_tuples(config))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{step_folder}: {_damaged_text(str(error)[:300])}") from error
    return config.lock()


def _latest_folder(workdir: Path) -> Path:
    """Raises CheckpointError, saying what would be right, if there is no checkpoint."""
    workdir = Path(workdir).absolute()
    right = "needs the folder of a training run, the one that holds checkpoints/"
    if not workdir.is_dir():
        raise CheckpointError(f"{workdir}: no such folder; {right}")
    step = latest_good_step(workdir)
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
    """The error for a checkpoint that cannot be read, with its cause and what to do.

    Raises KeyboardInterrupt if that is the cause. Where digests have been compared, the files are
    as they were written, and what is wrong is something else.
    """
    raise_interrupt(error)
    cause = error.__cause__ or error  # orbax wraps what tensorstore says
    first_line = (str(cause) or repr(cause)).splitlines()[0][:300]
    if (step_folder / digests.FILE).is_file() and checkpoint_problem(step_folder) is None:
        return CheckpointError(
            f"{step_folder}: cannot be read, although its files are whole ({first_line})"
        )
    return CheckpointError(f"{step_folder}: {_damaged_text(first_line)}")


def _damaged_text(why: str) -> str:
    return (
        f"the checkpoint is damaged ({why}); delete this folder to use the one before it, if there "
        "is one"
    )


def _say_damaged(workdir: Path, problems: dict[int, str], step: int) -> None:
    """Says once in a process, of several in the first, which checkpoints are passed over."""
    if not problems or not is_first():
        return
    for damaged_step, problem in problems.items():
        line = (
            f"{workdir / FOLDER / str(damaged_step)}: is damaged ({problem}); step {step} is used"
        )
        if line not in _said:
            _said.add(line)
            print(line, file=sys.stderr)


_said: set[str] = set()
