"""A model folder in another form: planned and checked as a whole, then written resumably.

Until all is written it lies in `<output>.partial/`, network by network: `unfinished/` is the one
that is being written, `model/` holds those that are done, `plan.json` tells what they come from.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from m2dit_jax.models.families import NETWORK_NAMES
from m2dit_jax.utils.digests import covered_files, digest_files, read_digests, write_digests
from m2dit_jax.utils.disks import check_room, writing
from m2dit_jax.utils.files import read_json
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.weights.finite import FiniteScan
from m2dit_jax.weights.lazy import Leaf, Tensor
from m2dit_jax.weights.lora_files import LoraChoice, add_lora, lora_digest, read_lora
from m2dit_jax.weights.mapping import Part, tensors_from_leaves
from m2dit_jax.weights.model_folder import (
    Component,
    find_components,
    form_of,
    plain_files,
    unknown_networks,
)
from m2dit_jax.weights.networks import ORBAX, open_leaves, read_config, read_json_as, torch_parts
from m2dit_jax.weights.orbax_files import write_orbax
from m2dit_jax.weights.safetensors_files import write_safetensors

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
MAX_SHARD_BYTES = 5_000_000_000  # as save_pretrained has long done
# In the output: a hash of the plan that has written it.
_FINISHED = ".m2dit_converted"
_SLACK = 100_000_000  # bytes on the disk, for all that is no weights


@dataclass(frozen=True)
class Job:
    """One network: what it consists of, and what that is in PyTorch.

    `arrays` is the folder that the weights are read from, `plain` that of the other files that are
    copied, None if there are none; `texts` are files, by name, that are written instead.
    """

    component: Component
    leaves: dict[str, Leaf]
    parts: dict[str, Part]
    arrays: Path
    plain: Path | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The size of all arrays as they will be written."""
        return sum(leaf.nbytes for leaf in self.leaves.values())


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion that has been checked; `dtype` is a key of DTYPES, None keeps all dtypes.

    Files that belong to no network are copied from `source`, or written if they are in `texts`.
    """

    source: Path
    output: Path
    to: str
    dtype: str | None
    jobs: tuple[Job, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    adapters: str = ""
    """Hashes of the LoRA files whose matrices are added, with their weights."""

    @property
    def partial(self) -> Path:
        """The folder that is written to until all is in it."""
        return self.output.with_name(f"{self.output.name}.partial")

    def unfinished_jobs(self) -> list[Job]:
        """The networks that no interrupted run of the same plan has written already."""
        done = self.partial / "model"
        resumes = _describes(self)
        return [
            job
            for job in self.jobs
            if not (resumes and (done / job.component.name / "config.json").is_file())
        ]


def make_plan(
    source: Path,
    output: Path,
    to: str | None,
    dtype: str | None,
    lora: Sequence[LoraChoice] = (),
) -> ConversionPlan:
    """A plan for which everything but the numbers has been checked.

    `to` is "orbax" or "diffusers", None the other form, or with `lora`, files of adapters that are
    added to the transformers, the form that these have.

    Raises ValueError, with all that does not fit in any of the networks.
    """
    components = find_components(source)
    form = form_of(components)
    other = "diffusers" if form == "orbax" else "orbax"
    if lora:
        other = to or form
    elif to not in (None, other):
        raise ValueError(f"{source}: is in the {form} form already; needs --to={other} or no --to")
    check_place(output, source)
    jobs = with_lora(make_jobs(components, dtype), lora, source)
    digests = " ".join(lora_digest(choice) for choice in lora)
    return check_output(ConversionPlan(source, output, other, dtype, jobs, adapters=digests))


def with_lora(jobs: Sequence[Job], lora: Sequence[LoraChoice], source: Path) -> tuple[Job, ...]:
    """The jobs of a model with adapters added to the arrays of its transformers.

    Raises ValueError, naming the file, for adapters that do not fit.
    """
    transformers = [job for job in jobs if _is_transformer(job)]
    if lora and not transformers:
        raise ValueError(f"{source}: needs a transformer that --lora could be added to")
    for choice in lora:
        choice.check_transformers(len(transformers) > 1)
    return tuple(_adapted(job, lora) if _is_transformer(job) else job for job in jobs)


def _adapted(job: Job, lora: Sequence[LoraChoice]) -> Job:
    leaves = dict(job.leaves)
    for choice in lora:
        if choice.is_for(job.component.name):
            add_lora(leaves, read_lora(choice, job.parts), choice.weight)
    return replace(job, leaves=leaves)


def _is_transformer(job: Job) -> bool:
    return job.component.network.class_name.endswith("Transformer3DModel")


def check_output(plan: ConversionPlan) -> ConversionPlan:
    """The plan, if its output is free or what this very plan has written.

    Raises ValueError otherwise.
    """
    if not is_written(plan):
        _check_free(plan.output)
    return plan


def check_place(output: Path, source: Path) -> None:
    """Raises ValueError if the output lies in the source, or is a folder that nobody converted."""
    if output.exists() and not (output / _FINISHED).is_file():
        _check_free(output)
    if output.absolute().resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{output}: must not lie in the source {source}")


def make_jobs(components: Iterable[Component], dtype: str | None) -> tuple[Job, ...]:
    """The jobs of networks as they are. Raises ValueError with all that does not fit in any."""
    jobs, problems = [], []
    for component in components:
        try:
            jobs.append(_make_job(component, dtype))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(jobs)


def execute(
    plan: ConversionPlan, on_bytes: Callable[[int], object], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes what an earlier run has not written yet; `on_bytes` is called with counts of bytes.

    Raises ValueError if the disk is too small or the place is taken, a file is damaged inside or
    holds numbers that are none, or another process is at work for the same output.
    """
    if not plan.output.parent.exists():
        check_room(plan.output, sum(job.nbytes for job in plan.jobs) + _SLACK)
        plan.output.parent.mkdir(parents=True, exist_ok=True)
    lock = plan.output.with_name(f".{plan.output.name}.convert.lock")
    try:
        with exclusive(lock):
            try:
                with writing(plan.partial):
                    _execute(plan, on_bytes, max_shard_bytes)
            finally:
                lock.unlink(missing_ok=True)
    except InUse as error:
        raise ValueError(f"{plan.output}: {error.holder} is converting to it") from None


def is_written(plan: ConversionPlan) -> bool:
    """Whether the output is there whole, from the same source by the same command.

    So it is even if the command was killed between its last rename and its end.
    """
    path = plan.output / _FINISHED
    return path.is_file() and path.read_text(encoding="utf-8") == _digest(plan)


def _execute(plan: ConversionPlan, on_bytes: Callable[[int], object], max_shard_bytes: int) -> None:
    if is_written(plan):
        shutil.rmtree(plan.partial, ignore_errors=True)
        return
    _check_free(plan.output)
    _clear_way(plan)
    left = plan.unfinished_jobs()
    check_room(plan.output, sum(job.nbytes for job in left) + _SLACK)
    plan.partial.mkdir(parents=True, exist_ok=True)
    _description_file(plan).write_text(_description(plan), encoding="utf-8")
    model, unfinished = plan.partial / "model", plan.partial / "unfinished"
    for job in left:
        unfinished.mkdir()
        _write_weights(plan, job, unfinished, on_bytes, max_shard_bytes)
        if job.plain is not None:
            _copy(job.plain, unfinished)
        _write_texts(job.texts, unfinished)
        _name_dtype(plan, unfinished / "config.json")
        write_digests(unfinished)
        (model / job.component.name).parent.mkdir(exist_ok=True)
        unfinished.rename(model / job.component.name)
    if plan.jobs[0].component.name:
        _copy(plan.source, model, without={*NETWORK_NAMES, *unknown_networks(plan.source)})
    _write_texts(plan.texts, model)
    (model / _FINISHED).write_text(_digest(plan), encoding="utf-8")
    _write_remaining_digests(plan, model)
    model.rename(plan.output)
    shutil.rmtree(plan.partial)


def _make_job(component: Component, dtype: str | None) -> Job:
    config = read_config(component.directory)
    abstract = read_json_as(component.network.abstract, component.directory / "config.json")
    target = None if dtype is None else DTYPES[dtype]
    leaves = open_leaves(component.directory, component.network, abstract, target)
    parts = torch_parts(component.network, config, abstract)
    return Job(component, leaves, parts, component.directory, plain=component.directory)


def _write_weights(
    plan: ConversionPlan,
    job: Job,
    directory: Path,
    on_bytes: Callable[[int], object],
    max_shard_bytes: int,
) -> None:
    scan = FiniteScan()
    leaves = {
        name: scan.leaf(name, _counted(name, leaf, on_bytes)) for name, leaf in job.leaves.items()
    }
    if plan.to == "orbax":
        write_orbax(directory / ORBAX, leaves)
    else:
        tensors = tensors_from_leaves(job.parts, leaves)
        write_safetensors(directory, job.component.network.stem, tensors, max_shard_bytes)
    if problem := scan.problem(job.arrays):
        raise ValueError(problem)


def _counted(name: str, leaf: Leaf, on_bytes: Callable[[int], object]) -> Leaf:
    def read(piece: Tensor) -> np.ndarray:
        try:
            values = piece.read()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        on_bytes(piece.nbytes)
        return values

    return replace(
        leaf, pieces=tuple(replace(piece, read=partial(read, piece)) for piece in leaf.pieces)
    )


def _write_remaining_digests(plan: ConversionPlan, model: Path) -> None:
    """Those of the files outside the networks' folders, which have theirs already."""
    known = read_digests(model) or {}  # of a network that is the whole folder
    new = [name for name in covered_files(model) if name not in known or name in plan.texts]
    write_digests(model, {**known, **digest_files(model, new)})


def _copy(source: Path, target: Path, without: Collection[str] = ()) -> None:
    for path in plain_files(source, without):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)


def _write_texts(texts: Mapping[str, str], target: Path) -> None:
    for name, text in texts.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text, encoding="utf-8")


def _name_dtype(plan: ConversionPlan, path: Path) -> None:
    """transformers notes the dtype of the weights and loads them in it."""
    if not path.is_file():
        return
    config = read_json(path)
    keys = [key for key in ("torch_dtype", "dtype") if key in config]
    if plan.dtype is not None and any(config[key] != plan.dtype for key in keys):
        config |= dict.fromkeys(keys, plan.dtype)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --- what an interrupted run has left


def _description_file(plan: ConversionPlan) -> Path:
    return plan.partial / "plan.json"


def _description(plan: ConversionPlan) -> str:
    """All that the result depends on, as JSON; the source's files by size and time of change."""
    files = {}
    for job in plan.jobs:
        for folder in filter(None, {job.arrays, job.plain}):
            for path in folder.rglob("*"):
                if path.is_file():
                    stat = path.stat()
                    files[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns]
    what: dict[str, Any] = {
        "source": str(plan.source.resolve()),
        "to": plan.to,
        "dtype": plan.dtype,
        "files": files,
        "texts": [dict(plan.texts), *(dict(job.texts) for job in plan.jobs)],
    }
    if plan.adapters:
        what["adapters"] = plan.adapters
    return json.dumps(what, indent=1, sort_keys=True)


def _digest(plan: ConversionPlan) -> str:
    return hashlib.sha256(_description(plan).encode()).hexdigest()


def _check_free(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output}: exists; needs a folder that does not")


def _describes(plan: ConversionPlan) -> bool:
    path = _description_file(plan)
    return path.is_file() and path.read_text(encoding="utf-8") == _description(plan)


def _clear_way(plan: ConversionPlan) -> None:
    """Keeps finished networks of the same plan; deletes what is unfinished or of another plan."""
    if not plan.partial.exists():
        return
    if _describes(plan):
        shutil.rmtree(plan.partial / "unfinished", ignore_errors=True)
    elif _description_file(plan).is_file() or not any(plan.partial.iterdir()):
        shutil.rmtree(plan.partial)
    else:
        raise ValueError(f"{plan.partial}: is in the way; needs a name that is free for a while")
