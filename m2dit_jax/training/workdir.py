"""The folder of a run: one run at a time, and a config that changes nothing learnt."""

import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from m2dit_jax.config.fields import LOCKED, OVERRIDE, declared_fields
from m2dit_jax.config.schema import Config
from m2dit_jax.parallel.processes import gather_errors, is_first, said_by_first
from m2dit_jax.utils.locks import InUse, exclusive
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.run_folder import CheckpointError

SHARED_SECONDS = 90.0  # NFS keeps a folder's listing for up to a minute
_TOKEN = ".shared-"


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
            raise CheckpointError(
                f"{workdir}: another process is training there ({error.holder})"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{workdir}: {error.strerror}; needs a folder to write to"
            ) from error
        yield


def check_shared(workdir: Path) -> str | None:
    """The problem, the same in all processes, if they do not share the workdir; None if they do.

    The first process writes a file there, which the others must come to see. Checkpoints would
    else be found incomplete when the first is saved, hours later. All processes call it.
    """
    if jax.process_count() == 1:
        return None
    problem, token = None, said_by_first("workdir token", uuid.uuid4().hex)
    if is_first():
        try:
            write_token(workdir, token)
        except OSError as error:
            problem = f"{workdir}: {error.strerror}; needs a folder to write to"
    problem = gather_errors("workdir token written", problem)
    if problem is None:
        problem = gather_errors("workdir token seen", token_problem(workdir, token, SHARED_SECONDS))
        if is_first():
            (workdir / f"{_TOKEN}{token}").unlink(missing_ok=True)
    return problem


def write_token(workdir: Path, token: str) -> None:
    """Makes the workdir and in it an empty file with the token in its name."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / f"{_TOKEN}{token}").touch()


def token_problem(workdir: Path, token: str, seconds: float) -> str | None:
    """The problem if the token's file is not to be seen within so many seconds, else None."""
    last = time.monotonic() + seconds
    while True:
        # By a listing: network file systems remember for a while that a name was not there.
        if workdir.is_dir() and f"{_TOKEN}{token}" in {path.name for path in workdir.iterdir()}:
            return None
        if time.monotonic() > last:
            return (
                f"{workdir.absolute()}: what process 0 wrote there is not to be seen on "
                f"{socket.gethostname()} after {seconds:g} s; --workdir must be a folder that all "
                "hosts share, such as one on NFS, Lustre or a bucket that is mounted"
            )
        time.sleep(0.2)


def check_resume(config: Config, workdir: Path, override: bool = False) -> dict[str, list[Any]]:
    """The fields in which a run that is there differs: their values there and here.

    Empty if there is no run. Raises ValueError, naming them, for fields that are locked, for those
    that need `override`, and if the run has gone further than `config.train.steps`.
    """
    done = run_folder.latest_good_step(workdir)
    if done is None:
        return {}
    try:
        before = Config.from_dict(run_folder.load_config(workdir))
    except CheckpointError:
        raise
    except ValueError as error:
        raise ValueError(f"{workdir}: its config cannot be read here:\n{error}") from error
    there, here = (flatten_dict(c.to_dict(), sep=".") for c in (before, config))
    rules = {each.name: each.rule.resume for each in declared_fields(Config)}
    changed = {name: [there[name], here[name]] for name in rules if there[name] != here[name]}
    locked = [name for name in changed if rules[name] == LOCKED]
    asking = [] if override else [name for name in changed if rules[name] == OVERRIDE]
    if locked or asking:
        lines = [
            f"  config.{name}: there {changed[name][0]!r}, here {changed[name][1]!r}"
            for name in (*locked, *asking)
        ]
        raise ValueError(
            "\n".join([f"{workdir} holds a run with another config:", *lines, _way_out(asking)])
        )
    if done > config.train.steps:
        raise ValueError(
            f"config.train.steps is {config.train.steps}, but the run in {workdir} has done {done}"
        )
    return changed


def _way_out(asking: list[str]) -> str:
    text = "Use another --workdir, or the same values to go on."
    if asking:
        text += (
            f" --override goes on with {' and '.join(asking)} changed: the learning rate of every "
            "step from here on is then that of the new values, which no run from the start had."
        )
    return text
