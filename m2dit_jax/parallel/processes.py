"""Several processes as one run: start, errors, preemption, and an end that all of them see."""

import os
import sys
from dataclasses import dataclass
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from m2dit_jax.utils.compat import coordination_client
from m2dit_jax.utils.options import shown

# A process that does not answer for so long is taken for dead, and the others stop.
HEARTBEAT_SECONDS = 60
# For all processes to come up, and to come to the same point: compilation times differ.
PATIENCE_SECONDS = 1800


_MOST_PROCESSES = 1_000_000


@dataclass(frozen=True)
class Processes:
    """Addresses by which the processes of a run find each other.

    With `detect` JAX finds them by itself, on Cloud TPU pods, GKE, SLURM and Open MPI.
    """

    coordinator: str | None = None
    count: int | None = None
    number: int | None = None
    detect: bool = False

    def __post_init__(self) -> None:
        explicit = (self.coordinator, self.count, self.number)
        if self.detect and any(value is not None for value in explicit):
            raise ValueError("--distributed finds the processes by itself: leave out the others")
        if any(value is None for value in explicit) and explicit != (None, None, None):
            raise ValueError(
                "--coordinator=HOST:PORT, --processes=N and --process=I belong together, got "
                f"coordinator {self.coordinator}, processes {self.count}, process {self.number}"
            )
        if self.count is not None and not 1 <= self.count <= _MOST_PROCESSES:
            raise ValueError(
                f"--processes must be between 1 and {_MOST_PROCESSES}, got {shown(self.count)}"
            )
        if self.count is not None and self.number not in range(self.count):
            raise ValueError(
                f"--process must be at least 0 and less than --processes {self.count}, "
                f"got {self.number}"
            )
        host, _, port = (self.coordinator or ":1").rpartition(":")
        if self.coordinator is not None and not (host and _is_port(port)):
            raise ValueError(
                "--coordinator must be HOST:PORT with a port from 1 to 65535, "
                f"got {self.coordinator!r}"
            )

    @property
    def several(self) -> bool:
        """Whether the run has more processes than this one."""
        return self.detect or self.coordinator is not None

    def start(self) -> None:
        """Connects to the other processes; RuntimeError or ValueError if they are not found."""
        if not self.several:
            return
        jax.distributed.initialize(
            self.coordinator,
            self.count,
            self.number,
            initialization_timeout=PATIENCE_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65_535


def process_number() -> int:
    """Which process of the run this is, from 0 on."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that prints and writes what is not sharded."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints in the first process alone."""
    if is_first():
        print(text, flush=True)


def gather_errors(name: str, problem: str | None) -> str | None:
    """The problems of all processes, each under its number; None if no process has one.

    All processes call it, with a name that is used once; so none is left waiting for one that gave
    up.
    """
    if jax.process_count() == 1:
        return problem
    client = coordination_client()
    client.key_value_set(f"m2dit/{name}/{jax.process_index()}", problem or "")
    client.wait_at_barrier(f"m2dit/{name}", PATIENCE_SECONDS * 1000)
    said = [
        client.blocking_key_value_get(f"m2dit/{name}/{i}", HEARTBEAT_SECONDS * 1000)
        for i in range(jax.process_count())
    ]
    if len(set(said)) == 1:
        return said[0] or None
    return "\n".join(f"process {i}: {problem}" for i, problem in enumerate(said) if problem)


def said_by_first(name: str, text: str) -> str:
    """The text of the first process, in all of them.

    All processes call it, with a name that is used once.
    """
    if jax.process_count() == 1:
        return text
    client = coordination_client()
    key = f"m2dit/said/{name}"
    if is_first():
        client.key_value_set(key, text or " ")  # an empty value cannot be told from none
    return client.blocking_key_value_get(key, PATIENCE_SECONDS * 1000).strip()


def preempted(step: int) -> bool:
    """Whether a process got SIGTERM, and all are to stop after this step.

    All processes ask at every step, and get True at the same one.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def leave_the_others() -> NoReturn:
    """Ends this process after a failure, with status 1.

    At once, for the usual end would wait for the others, who wait for this one. They find out
    within HEARTBEAT_SECONDS, and stop.
    """
    print(f"process {jax.process_index()} failed; the others will stop", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
