"""Times one phase, in a process of its own."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2dit_jax.config.schema import Config

from m2dit_jax.utils.machine import peak_process_bytes, usable_cpus

MATMUL_SIDE = 2048  # of the square matrices whose product measures the machine


@dataclass(frozen=True)
class TimingOptions:
    """Settings of a timing. `threads` None: all CPUs that the process may use.

    `profile_steps` 0: no trace is written, else one of so many steps below `profile_folder`.
    """

    threads: int | None
    warmup: int
    repeats: int
    profile_steps: int
    profile_folder: Path


def time_phase(name: str, config: "Config", options: TimingOptions) -> dict[str, Any]:
    """Figures of a phase (a key of `phases.PHASES`), for a process that has not used jax yet.

    The peak memory is that of the process, with jax itself and the compilation. Raises ValueError
    for a config that cannot be and for threads that there are not.
    """
    if options.threads is not None:
        limit_threads(options.threads)
    # Only now: XLA makes as many threads as the process has CPUs when jax is first used.
    import jax

    from m2dit_jax.config.recipe import build_recipe
    from m2dit_jax.tools.benchmarking.phases import PHASES
    from m2dit_jax.training.profiling import named_step, trace

    dtype = config.train.compute_dtype
    recipe = build_recipe(config)
    begun = time.perf_counter()
    phase = PHASES[name](recipe)
    prepare_seconds = time.perf_counter() - begun
    seconds = measure(phase.run, options.warmup, options.repeats)
    peak_bytes = peak_process_bytes()
    # Shortly before or after, as the speed of a shared machine changes by the minute.
    matmul_rate = matmul_flops_per_second(dtype)
    if options.profile_steps:
        with trace(options.profile_folder / name):
            for number in range(options.profile_steps):
                with named_step(name, number):
                    phase.run()
    device = jax.devices()[0]
    median = statistics.median(seconds)
    on_device = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "seconds": {
            "median": median,
            "fastest": min(seconds),
            "quartiles": [statistics.quantiles(seconds)[i] for i in (0, 2)],
            "slowest": max(seconds),
        },
        "tokens_per_second": phase.tokens / median,
        "model_flops": phase.flops,
        "flops_per_second": phase.flops / median,
        "matmul_flops_per_second": matmul_rate,
        "matmul_share": phase.flops / median / matmul_rate,
        "prepare_seconds": prepare_seconds,
        "program_bytes": phase.program_bytes,
        "peak_process_bytes": peak_bytes,
        **({} if on_device is None else {"peak_device_bytes": on_device}),
        "device": device.device_kind,
        "cpus": usable_cpus(),
    }


def measure(run: Callable[[], Any], warmup: int, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after `warmup` calls that do not count."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return seconds


def matmul_flops_per_second(dtype: str) -> float:
    """The speed of the fastest of some plain products of square matrices on one device."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((MATMUL_SIDE, MATMUL_SIDE), dtype)
    product = jax.jit(jnp.matmul)
    seconds = measure(lambda: product(x, x).block_until_ready(), 1, 8)
    return 2 * MATMUL_SIDE**3 / min(seconds)


def limit_threads(threads: int) -> None:
    """Leaves this process, and what it starts, so many of the CPUs that it may use.

    It also limits XLA's threads if jax has not been used yet, and that even `taskset` cannot for a
    process that runs. Raises ValueError if there are not so many, or the system cannot.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"--threads needs Linux, this is {platform.system()}")
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cpus):
        raise ValueError(
            f"--threads must be 1 to {len(cpus)}, as many CPUs can be used here; got {threads}"
        )
    os.sched_setaffinity(0, cpus[:threads])
