"""Times forward pass, training step and sampling step of a config and prints JSON.

m2dit benchmark --config=bench_medium --threads=1
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

from m2dit_jax.cli import bounded_int, count, make_parser, processes, run_command
from m2dit_jax.config.bounds import DTYPES
from m2dit_jax.config.schema import Config
from m2dit_jax.tools.benchmarking.timing import TimingOptions, time_phase
from m2dit_jax.train import read_flags
from m2dit_jax.utils.errors import WorkFailed
from m2dit_jax.utils.options import MAX_COUNT
from m2dit_jax.utils.remote.places import written_place

# Those of `benchmarking.phases`, which loads jax. What is timed unless asked for others:
DEFAULT_PHASES = ("forward", "train_step", "sample_step")
PHASES = (*DEFAULT_PHASES, "extend_step")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says.

    1: a process was ended from outside, as happens when memory runs out.
    """
    flags, config_flags = _parser().parse_known_args(argv)
    return run_command(lambda: _benchmark(flags, config_flags))


def _benchmark(flags: argparse.Namespace, config_flags: Sequence[str]) -> None:
    _check(flags)
    arguments = read_flags(config_flags)
    if arguments is None:
        return
    config = arguments.config
    if flags.dtype:
        config = replace(config, train=replace(config.train, compute_dtype=flags.dtype))
    profile = written_place(arguments.workdir) / "profile"
    options = TimingOptions(flags.threads, flags.warmup, flags.repeats, flags.profile, profile)
    try:
        figures = benchmark(config, flags.phases, options)
    except BrokenProcessPool as error:
        raise WorkFailed(
            "the process that was timed was ended from outside: out of memory?"
        ) from error
    print(json.dumps(figures, indent=1))
    if flags.profile:
        print(f"The traces are in {options.profile_folder}", file=sys.stderr)


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
    unknown = [phase for phase in flags.phases if phase not in PHASES]
    if unknown or not flags.phases:
        raise ValueError(f"--phases must be of {','.join(PHASES)}, got {','.join(flags.phases)!r}")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("benchmark", __doc__ or "", "--config=bench_medium --threads=1")
    what = parser.add_argument_group(
        "what, with --config=FILE_OR_NAME and its fields; --workdir=DIR is for traces"
    )
    what.add_argument(
        "--phases",
        type=lambda names: names.split(","),
        default=list(DEFAULT_PHASES),
        help=f"of {','.join(PHASES)}; the last makes one scene from the others, which are in the "
        f"cache of the causal mask (default: {','.join(DEFAULT_PHASES)})",
    )
    what.add_argument(
        "--dtype", choices=DTYPES, help="of the computation (default: config.train.compute_dtype)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=processes, help="CPUs to use (default: all)")
    how.add_argument(
        "--warmup", type=count, default=2, help="calls that do not count (default: %(default)s)"
    )
    how.add_argument(
        "--repeats",
        type=bounded_int(2, MAX_COUNT),
        default=10,
        help="calls that count (default: %(default)s)",
    )
    how.add_argument(
        "--profile",
        type=bounded_int(0, MAX_COUNT),
        default=0,
        metavar="STEPS",
        help="also write traces of so many steps (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
