"""Times forward pass, training step and sampling step of a config and prints JSON.

python -m m2dit_jax.benchmark --config=configs/bench_medium.py --threads=1
It needs no data. Fields of the config can be changed as in training (--config.model.layers=2).
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from m2dit_jax.config.schema import DTYPES, Config
from m2dit_jax.tools.benchmarking.timing import TimingOptions, time_phase
from m2dit_jax.train import read_flags
from m2dit_jax.utils.devices import prefer_available_platform

# Those of `benchmarking.phases`, which loads jax. What is timed unless asked for others:
DEFAULT_PHASES = ("forward", "train_step", "sample_step")
PHASES = (*DEFAULT_PHASES, "extend_step")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 2, after a message, for wrong input.

    1: a process was ended from outside, as happens when memory runs out.
    """
    flags, config_flags = _parser().parse_known_args(argv)
    try:
        _check(flags)
        read = read_flags(config_flags)
        if read is None:
            return 0
        config, workdir = read.config, read.workdir
        if flags.dtype:
            config = replace(config, train=replace(config.train, compute_dtype=flags.dtype))
        prefer_available_platform()
        options = TimingOptions(
            flags.threads, flags.warmup, flags.repeats, flags.profile, workdir / "profile"
        )
        figures = benchmark(config, flags.phases, options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("the process that was timed was ended from outside: out of memory?", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    if flags.profile:
        print(f"The traces are in {options.profile_folder}", file=sys.stderr)
    return 0


def benchmark(config: Config, phases: Sequence[str], options: TimingOptions) -> dict[str, Any]:
    """The figures of some of PHASES, each timed in a process of its own.

    Raises ValueError for a config that cannot be, BrokenProcessPool if a process is killed.
    """
    # Of its own, as XLA's threads and the peak memory are a process's.
    processes = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with processes:
        timings = {
            name: processes.submit(time_phase, name, config, options).result() for name in phases
        }
    return {
        "jax": version("jax"),
        "dtype": config.train.compute_dtype,
        "stories": config.train.batch_size,
        "warmup": options.warmup,
        "repeats": options.repeats,
        **{f"{name}_seconds": timings[name]["seconds"]["median"] for name in phases},
        "phases": timings,
    }


def _check(flags: argparse.Namespace) -> None:
    for name, least in (("warmup", 1), ("repeats", 2), ("profile", 0)):
        if getattr(flags, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(flags, name)}")
    unknown = [phase for phase in flags.phases if phase not in PHASES]
    if unknown or not flags.phases:
        raise ValueError(f"--phases must be of {','.join(PHASES)}, got {','.join(flags.phases)!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m2dit benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="--config=FILE is needed; --workdir=DIR is where traces go, to its folder profile.",
    )
    parser.add_argument(
        "--phases",
        type=lambda names: names.split(","),
        default=list(DEFAULT_PHASES),
        help=f"of {','.join(PHASES)}; the last makes one scene from the others, which are in the "
        f"cache of the causal mask. Default: {','.join(DEFAULT_PHASES)}",
    )
    parser.add_argument("--threads", type=int, help="CPUs to use; default: all")
    parser.add_argument("--dtype", choices=DTYPES, help="default: config.train.compute_dtype")
    parser.add_argument("--warmup", type=int, default=2, help="calls that do not count; default: 2")
    parser.add_argument("--repeats", type=int, default=10, help="calls that count; default: 10")
    parser.add_argument(
        "--profile", type=int, default=0, metavar="STEPS", help="also write traces of so many steps"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
