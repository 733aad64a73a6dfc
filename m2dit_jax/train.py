"""Trains a model: m2dit train --config=base --workdir=runs/base

Run again, the same command goes on from the latest checkpoint; docs/config.md says which fields may
be others then. On several hosts every process runs the same command, with --distributed, or
--coordinator, --processes and --process.

Example: m2dit train --config=base --config.train.steps=500 --workdir=runs/short
Example: m2dit train --config=real_clips --workdir=runs/mine
Curves, sampled stories and the config: tensorboard --logdir=runs/base/tensorboard, which
pip install "m2dit_jax[tensorboard]" brings.
"""

import difflib
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import get_config_filename

from m2dit_jax.cli import WorkFailed, run_command, wrapped
from m2dit_jax.config.files import with_named_config
from m2dit_jax.parallel.processes import (
    Processes,
    gather_errors,
    is_first,
    leave_the_others,
    process_number,
)
from m2dit_jax.utils.compile_cache import COMPILE_CACHE_HELP, keep_compiled
from m2dit_jax.utils.disks import describe, in_words
from m2dit_jax.utils.remote.bucket import is_remote
from m2dit_jax.utils.remote.places import followed_place, written_place
from m2dit_jax.utils.stopping import stop_listening

if TYPE_CHECKING:
    from m2dit_jax.config.schema import Config

_WARMUP_SHARE = 10  # of the steps, a tenth, where a config's warm-up is longer than all of them


@dataclass(frozen=True)
class Arguments:
    """The values of the command line."""

    config: "Config"
    workdir: str
    processes: Processes
    show_sharding: bool
    override: bool
    profile_steps: int
    compile_cache: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says.

    1: the loss is not finite, or another process of the run failed. A run that a signal stopped in
    its steps has saved.
    """
    return run_command(
        lambda: _run(sys.argv[1:] if argv is None else argv),
        on_interrupt="interrupted; the same command goes on from the latest checkpoint",
    )


def _run(argv: Sequence[str]) -> int:
    arguments = read_flags(argv)
    if arguments is None:
        return 0
    if not arguments.processes.several:
        return _train(arguments)
    stop_listening()  # JAX tells the others of a signal, and they end together
    try:
        arguments.processes.start()
    except RuntimeError as error:
        raise ValueError(error) from error
    try:
        return _train(arguments)
    except (_SameInAll, WorkFailed):
        raise
    except Exception as error:
        line = in_words(error)
        if line is None:
            traceback.print_exc()
        else:
            print(line, file=sys.stderr)
        leave_the_others()


class _SameInAll(ValueError):
    """Wrong input, of which all processes of the run know."""


def _train(arguments: Arguments) -> int:
    # Only now: the imports take seconds, and a mistyped flag is answered at once.
    from m2dit_jax.training.checkpoints import compare_together
    from m2dit_jax.training.hooks import NonFiniteLoss
    from m2dit_jax.training.loop import train_and_evaluate
    from m2dit_jax.training.run import prepare, show_sharding
    from m2dit_jax.training.workdir import check_shared
    from m2dit_jax.weights.run_folder import CheckpointError

    run, problem = None, None
    try:
        if arguments.show_sharding:
            print(show_sharding(arguments.config))
            return 0
        keep_compiled(arguments.compile_cache)
        apart = is_remote(arguments.workdir) and arguments.processes.several
        workdir = _open_apart(arguments) if apart else written_place(arguments.workdir)
        problem = None if apart else check_shared(workdir)
        if problem:
            raise _SameInAll(problem)
        if not apart:
            compare_together(workdir)
        run = prepare(arguments.config, workdir, arguments.profile_steps, arguments.override, apart)
    except _SameInAll:
        raise
    except ValueError as error:
        problem = str(error)
    except OSError as error:
        problem = describe(error)
    problem = gather_errors("prepared", problem)
    if problem:
        raise _SameInAll(problem)
    if run is None:
        return 0
    try:
        stopped_by = train_and_evaluate(run)
    except CheckpointError as error:
        raise _SameInAll(error) from error
    except NonFiniteLoss as error:
        raise WorkFailed(error) from error
    return 128 + stopped_by if stopped_by else 0


def _open_apart(arguments: Arguments) -> Path:
    """The workdir's local copy: the first process writes to the bucket, the others read there.

    Raises _SameInAll if one of them cannot.
    """
    workdir = problem = None
    for turn, opens in (("first", is_first()), ("others", not is_first())):
        try:
            if opens:
                if is_first():
                    workdir = written_place(arguments.workdir)
                else:
                    workdir = followed_place(arguments.workdir, process_number())
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem := gather_errors(f"workdir of the {turn}", problem):
            raise _SameInAll(problem)
    assert workdir is not None
    return workdir


def read_flags(argv: Sequence[str]) -> Arguments | None:
    """The arguments, with the config read and checked; None if help was asked for.

    Raises ValueError for what does not fit, with the nearest name that there is, and for a config
    that cannot be.
    """
    argv = with_named_config(argv)
    if _asks_for_help(argv) and not any(re.match("--?config(=|$)", each) for each in argv):
        argv = [*with_named_config(["--config=base"]), *argv]
    # Twice: names of fields can only be checked, with a readable message, in a loaded config.
    plain = _define_flags([])
    _parse(plain, argv, known_only=True)
    if plain["help"].value:
        _print_help(plain)
        return None
    if plain["config"].value is None:
        raise ValueError("needs --config=FILE_OR_NAME, such as --config=base")
    file = get_config_filename(plain["config"])
    if not isinstance(plain["config"].value, ConfigDict):
        raise ValueError(f"--config={file}: its get_config() must return a ConfigDict")
    _check_fields(plain["config"].value, argv)

    values = _define_flags(argv)
    others = _parse(values, argv)
    if others:
        raise ValueError(f"unknown arguments: {' '.join(others)}")
    config = cast(ConfigDict, values["config"].value)
    _shorten_warmup(config, argv)
    # Only now: the import takes seconds, and a mistyped flag is answered at once.
    from m2dit_jax.config.schema import Config

    return Arguments(
        Config.from_dict(config),
        values["workdir"].value or f"runs/{Path(file).stem}",
        Processes(
            values["coordinator"].value,
            values["processes"].value,
            values["process"].value,
            bool(values["distributed"].value),
        ),
        bool(values["show_sharding"].value),
        bool(values["override"].value),
        values["profile"].value or 0,
        values["compile_cache"].value,
    )


def _asks_for_help(argv: Sequence[str]) -> bool:
    return any(argument in ("--help", "-help") for argument in argv)


def _print_help(values: flags.FlagValues) -> None:
    """The flags, and the fields of the config that --config names."""
    # Only now, as below.
    from m2dit_jax.config.docs import to_help
    from m2dit_jax.config.schema import Config

    own = values.get_flags_for_module(sys.modules[__name__])
    print(__doc__)
    print("flags:")
    for flag in sorted(own, key=lambda flag: flag.name):
        default = "none" if flag.default is None else str(flag.default).lower()
        said = "" if "default" in flag.help else f" (default: {default})"
        print(wrapped(f"--{flag.name}", f"{flag.help}{said}"))
    file = get_config_filename(values["config"])
    print(f"\nfields of the config, with the values of {Path(file).name}:")
    print(to_help(Config.from_dict(cast(ConfigDict, values["config"].value))))


def _shorten_warmup(config: ConfigDict, argv: Sequence[str]) -> None:
    """Fits the warm-up of a config to fewer steps that the command line asks for, and says so.

    A warm-up that the command line asks for stays. The same command gives the same again, so that
    a run which goes on finds its own.
    """
    train, typed = config.train, set(_typed_fields(argv))
    if "train.steps" not in typed or "train.warmup_steps" in typed or train.steps < 1:
        return
    if train.warmup_steps >= train.steps:
        shorter = train.steps // _WARMUP_SHARE
        print(
            f"config.train.warmup_steps: {shorter} instead of {train.warmup_steps}, as there are "
            f"only {train.steps} steps",
            file=sys.stderr,
        )
        train.warmup_steps = shorter


def _define_flags(argv: Sequence[str]) -> flags.FlagValues:
    """The flags, and one more for each field of the config that `argv` changes."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        help_string="file, or name of a shipped one such as base; its fields are changed by "
        "--config.train.steps=500 and the like",
        flag_values=values,
        sys_argv=list(argv),
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "folder for checkpoints and results; default: runs/NAME, as the config file's name",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "one process of several, which JAX finds by itself: Cloud TPU pods, GKE, SLURM, Open MPI",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT on which process 0 is to be found; with --processes and --process",
        flag_values=values,
    )
    flags.DEFINE_integer("processes", None, "how many there are", flag_values=values)
    flags.DEFINE_integer("process", None, "which this is, from 0 on", flag_values=values)
    flags.DEFINE_bool(
        "show_sharding",
        False,
        "print what of the training state each device would hold, and stop",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "override",
        False,
        "go on with a run although learning rate, schedule or number of steps are others than "
        "before; WORKDIR/run.jsonl records it",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "profile",
        0,
        "trace so many steps, for xprof and Perfetto, to WORKDIR/profile",
        lower_bound=0,
        upper_bound=10**6,
        flag_values=values,
    )
    flags.DEFINE_string("compile_cache", None, COMPILE_CACHE_HELP, flag_values=values)
    flags.DEFINE_bool("help", False, "show this", flag_values=values)
    return values


def _parse(values: flags.FlagValues, argv: Sequence[str], known_only: bool = False) -> list[str]:
    """Parses and returns the rest; ValueError also for whatever the config file raises."""
    try:
        return values(["train", *argv], known_only=known_only)[1:]
    except flags.Error as error:
        # For a config file called with `:argument` absl puts a traceback into the message.
        first, *_, last = [line for line in str(error).splitlines() if line] * 2
        message = first if first == last else f"{first} {last}"
        changed = re.match(r"flag --(config\.[\w.]+)=", message)
        if changed:
            field = values[changed[1]]
            message += f" (needs the type {field.parser.flag_type()}, as in {field.default})"
        raise ValueError(message) from error
    except Exception as error:
        trace, place = error.__traceback__, ""
        while trace is not None:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        raise ValueError(
            f"--config: {type(error).__name__}: {error} ({place}); needs a Python file with a "
            "function get_config(), such as configs/base.py"
        ) from error


def _check_fields(config: ConfigDict, argv: Sequence[str]) -> None:
    """The flags must change fields that the config has, or ValueError names the nearest."""
    fields = flatten_dict(config.to_dict(), sep=".")
    problems = []
    for name in _typed_fields(argv):
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0)[0]
            problems.append(
                f"--config.{name}: the config has no such field; the nearest is --config.{nearest}"
            )
    if problems:
        raise ValueError("\n".join(problems))


def _typed_fields(argv: Sequence[str]) -> list[str]:
    """Names of the config's fields that the command line changes."""
    return re.findall(r"^--?(?:no)?config\.([\w.]+)", "\n".join(argv), re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
