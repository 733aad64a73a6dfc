"""Parts of an encoding, one a host: shards by number, so that hosts need not know of each other."""

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from m2dit_jax.data.encoded import PROGRESS
from m2dit_jax.utils.locks import InUse, exclusive

COUNT = "M2DIT_PARTS"  # environment: how many parts there are, for Kubernetes, which does not say
MOST_PARTS = 100_000
_LOCK = "lock"  # of a command that does all parts, or joins them
_PATIENCE = 2.0  # seconds in which another process that only looks has looked


class Part(NamedTuple):
    """Every `of`-th shard, from shard `number` (from 1 on)."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"part-{self.number}-of-{self.of}"

    def shards(self, total: int) -> range:
        """Numbers of its shards, of so many."""
        return range(self.number - 1, total, self.of)


def read_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The part of a text such as "2/4", or of the environment for "auto". Raises ValueError."""
    if text == "auto":
        return _from_environment(environment)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None:
        raise ValueError(f"--part: found {text!r}, needs I/N such as 2/4, or auto")
    return _checked(int(found[1]) - 1, int(found[2]), f"--part={text}")


def _from_environment(environment: Mapping[str, str]) -> Part:
    """The part that SLURM's arrays, Kubernetes' indexed jobs or TPU pods name, tried in turn."""

    def number(name: str, default: int | None = None) -> int:
        text = environment.get(name, "" if default is None else str(default))
        if not re.fullmatch(r"\d{1,9}", text):
            raise ValueError(f"--part=auto: {name} is {text!r}, needs a whole number")
        return int(text)

    if "SLURM_ARRAY_TASK_ID" in environment:
        index = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")
        index, rest = divmod(index, number("SLURM_ARRAY_TASK_STEP", 1) or 1)
        count = number("SLURM_ARRAY_TASK_COUNT")
        if rest or not 0 <= index < count:
            raise ValueError(
                f"--part=auto: SLURM_ARRAY_TASK_ID is {environment['SLURM_ARRAY_TASK_ID']}; the "
                "array must have no gaps, as in --array=0-15"
            )
        return _checked(index, count, "--part=auto: SLURM_ARRAY_TASK_ID")
    if "JOB_COMPLETION_INDEX" in environment and COUNT in environment:
        index = number("JOB_COMPLETION_INDEX")
        return _checked(index, number(COUNT), "--part=auto: JOB_COMPLETION_INDEX")
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if "TPU_WORKER_ID" in environment and hosts:
        slices = number("MEGASCALE_NUM_SLICES", 1) or 1
        index = number("MEGASCALE_SLICE_ID", 0) * len(hosts) + number("TPU_WORKER_ID")
        return _checked(index, slices * len(hosts), "--part=auto: TPU_WORKER_ID")
    raise ValueError(
        "--part=auto: needs an array of SLURM (SLURM_ARRAY_TASK_ID), an indexed job of Kubernetes "
        f"(JOB_COMPLETION_INDEX, and {COUNT}, its completions) or a TPU pod (TPU_WORKER_ID, "
        "TPU_WORKER_HOSTNAMES); else --part=I/N"
    )


def _checked(index: int, count: int, source: str) -> Part:
    if not 0 <= index < count <= MOST_PARTS:
        raise ValueError(
            f"{source}: is part {index + 1} of {count}, needs one from 1 to their number, which is "
            f"at most {MOST_PARTS}"
        )
    return Part(index + 1, count)


def begun_parts(output: Path) -> dict[Part, str]:
    """The parts that were begun, each with the host that did so last."""
    found = {}
    for path in sorted((output / PROGRESS).glob("part-*.host")):
        name = re.fullmatch(r"part-(\d+)-of-(\d+)\.host", path.name)
        if name is not None:
            found[Part(int(name[1]), int(name[2]))] = path.read_text(encoding="utf-8").strip()
    return found


@contextmanager
def writing_part(output: Path, part: Part) -> Iterator[None]:
    """A context in which this process alone writes a part.

    Raises ValueError if another one does, or works on all of the dataset or on other parts.
    """
    folder = output / PROGRESS
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(output, folder / f"{part.name}.lock"):
        others = [path for path in _locks(folder) if not path.name.endswith(f"-of-{part.of}.lock")]
        for path in [folder / _LOCK, *others]:
            _check_free(output, path)
        (folder / f"{part.name}.host").write_text(f"{socket.gethostname()}\n", encoding="utf-8")
        yield


@contextmanager
def writing_all(output: Path) -> Iterator[None]:
    """A context in which this process alone writes to a dataset. Raises ValueError else."""
    folder = output / PROGRESS
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(output, folder / _LOCK):
        for path in _locks(folder):
            _check_free(output, path)
        yield


def _locks(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.lock"))


@contextmanager
def _alone(output: Path, path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with _in_words(output):
            stack.enter_context(exclusive(path))
        yield


def _check_free(output: Path, path: Path) -> None:
    last = time.monotonic() + _PATIENCE
    with _in_words(output):
        while True:
            try:
                with exclusive(path):
                    return
            except InUse:
                if time.monotonic() > last:
                    raise
            time.sleep(0.1)


@contextmanager
def _in_words(output: Path) -> Iterator[None]:
    try:
        yield
    except InUse as error:
        raise ValueError(f"{output}: another process is writing to it ({error.holder})") from None
