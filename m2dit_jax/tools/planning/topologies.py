"""Machines by name, such as v5p:2x4x4 or h100:8, and their devices, which need not be there."""

import contextlib
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from m2dit_jax.tools.planning.gpu_targets import GPU_TARGETS, target_config
from m2dit_jax.utils.chips import CHIPS, Chip
from m2dit_jax.utils.extras import how_to_install

# What the compiler of libtpu 0.0.42 accepts, of the shapes that can be rented.
TPU_SHAPES = {
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}


CUDA_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


class MissingExtra(ValueError):
    """The compiler for a kind of device is not installed."""


@dataclass(frozen=True)
class Machine:
    """The devices of a topology; `per_node` of them share the fast network."""

    name: str
    chip: Chip
    platform: str
    devices: tuple[Any, ...]
    per_node: int

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """Autotuning a kernel would need the device."""
        return {"xla_gpu_autotune_level": 0} if self.platform == "cuda" else None


def open_topology(name: str) -> Machine:
    """The devices of an absent machine, from the compiler for them.

    Raises ValueError for a name that is none, MissingExtra if the compiler is not installed.
    """
    kind, shape = split_name(name)
    chip = CHIPS[kind]
    if kind == "cpu":
        return Machine(name, chip, "cpu", _cpu_devices(shape[0]), shape[0])
    if kind in TPU_SHAPES:
        return Machine(name, chip, "tpu", _tpu_devices(name), math.prod(shape))
    nodes, per_node = (1, *shape)[-2:]
    return Machine(name, chip, "cuda", _gpu_devices(kind, nodes, per_node), per_node)


def split_name(name: str) -> tuple[str, tuple[int, ...]]:
    """Kind and shape, such as ("v5p", (2, 4, 4)). Raises ValueError for an unknown kind."""
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(f"--topology={name}: unknown kind of device {kind!r}; {valid_names()}")
    if kind in TPU_SHAPES:
        valid = shape in TPU_SHAPES[kind]
    else:
        most_axes = 1 if kind == "cpu" else 2
        valid = (
            re.fullmatch(rf"[1-9]\d{{0,3}}(x[1-9]\d{{0,3}}){{0,{most_axes - 1}}}", shape)
            is not None
        )
    if not valid:
        raise ValueError(
            f"--topology={name}: there is no {kind} of shape {shape!r}; {valid_names()}"
        )
    return kind, tuple(int(size) for size in shape.split("x"))


def valid_names() -> str:
    """The values of --topology, for messages."""
    tpus = "; ".join(f"{kind}:{{{' '.join(shapes)}}}" for kind, shapes in TPU_SHAPES.items())
    gpus = ", ".join(GPU_TARGETS)
    return (
        f"there are {tpus} (chips along each axis of a TPU slice); {gpus} with GPUs of a node, as "
        "in h100:8, or nodes x GPUs of each, as in h100:2x8; and cpu:N, N simulated devices "
        "(numbers up to 9999)"
    )


def _tpu_devices(name: str) -> tuple[Any, ...]:
    if "TPU_LIBRARY_PATH" not in os.environ and importlib.util.find_spec("libtpu") is None:
        raise MissingExtra(
            f"--topology={name} needs the compiler for TPUs, which works without one: "
            f"{how_to_install('tpu')}"
        )
    # Without a TPU nobody answers what libtpu would ask, and wait for, or complain about.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", name.replace(":", "-"))
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Hosts of four chips are what the compiler takes for granted.
    one_chip = {"chips_per_host_bounds": [1, 1, 1]} if name.endswith(":1x1") else {}
    description = topologies.get_topology_desc(platform="tpu", topology_name=name, **one_chip)
    return tuple(description.devices)


def _gpu_devices(kind: str, nodes: int, per_node: int) -> tuple[Any, ...]:
    if not any(map(_is_installed, CUDA_PLUGINS)):
        raise MissingExtra(
            f"--topology={kind}:... needs JAX's CUDA plugin, which compiles without a GPU: "
            f"{how_to_install('cuda12')}, or the extra cuda13"
        )
    # It would compare the versions of a driver that is not there.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    description = topologies.get_topology_desc(
        platform="cuda",
        target_config=target_config(GPU_TARGETS[kind]),
        topology=f"{nodes}x1x{per_node}",
    )
    return tuple(description.devices)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _cpu_devices(count: int) -> tuple[Any, ...]:
    # It can only be set before JAX has started; then the devices that there are must do.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology=cpu:{count}: JAX has been started with {len(devices)} CPU devices"
        )
    return tuple(devices[:count])
