"""What a training step, a sampling step or a decoding needs on a machine that is not there.

m2dit plan --config=finetune_5b --topology=v5p:2x4x4
compiles the real program for it: memory, operations, communication, a bound of the time, and
whether it fits. Fields of the config are changed as in training (--config.mesh.context=4).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import add_quantize_flag, make_parser, run_command
from m2dit_jax.train import read_flags
from m2dit_jax.utils.files import write_text

MODES = ("train", "sample", "decode")
DTYPES = ("float32", "bfloat16")
POLICIES = ("auto", "resident", "offload", "stream")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says; 1: it does not fit."""
    argv = sys.argv[1:] if argv is None else argv
    flags, config_flags = _parser().parse_known_args(argv)
    return run_command(lambda: _plan(flags, config_flags, argv))


def _plan(flags: argparse.Namespace, config_flags: Sequence[str], argv: Sequence[str]) -> int:
    if flags.search and flags.mode != "train":
        raise ValueError(f"--search is for --mode=train: there is one way to {flags.mode}")
    if flags.dtype and flags.mode == "train":
        raise ValueError(
            f"--dtype={flags.dtype} is for --mode=sample and decode: training has "
            "--config.train.compute_dtype"
        )
    for name in ("memory", "quantize"):
        if getattr(flags, name) and flags.mode != "sample":
            raise ValueError(f"--{name} is for --mode=sample, found --mode={flags.mode}")
    arguments = read_flags(config_flags)
    if arguments is None:
        return 0
    # Only now: the imports take seconds, and a mistyped flag is answered at once.
    from m2dit_jax.config.recipe import build_recipe
    from m2dit_jax.tools.planning.cache import keep_executables
    from m2dit_jax.tools.planning.planner import make_plan
    from m2dit_jax.tools.planning.report import origin
    from m2dit_jax.tools.planning.search import search, table
    from m2dit_jax.tools.planning.topologies import open_topology
    from m2dit_jax.utils.compile_cache import keep_compiled

    machine = open_topology(flags.topology)
    if flags.cache:
        keep_executables(flags.cache)
    elif machine.platform == "cpu":  # what was compiled for absent devices cannot be read here
        keep_compiled(arguments.compile_cache)
    if flags.search:
        plans = search(arguments.config, machine)
        print(table(plans))
    else:
        recipe = build_recipe(arguments.config)
        how = {"memory": flags.memory or "auto", "quantize": flags.quantize}
        plans = [make_plan(recipe, machine, flags.mode, flags.dtype, whole_run=True, **how)]
        print(plans[0].to_text())
    if flags.json:
        how = origin(argv)
        figures = [how | plan.to_json() for plan in plans]
        write_text(flags.json, json.dumps(figures if flags.search else figures[0], indent=1))
    return 0 if any(plan.fits for plan in plans) else 1


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "plan", __doc__ or "", "--config=finetune_5b --topology=v5p:2x4x4 --search"
    )
    what = parser.add_argument_group("what, with --config=FILE_OR_NAME and its fields")
    what.add_argument(
        "--topology",
        required=True,
        help="such as v5p:2x4x4, v6e:8x8, h100:8, h100:2x8, rtx4090:1, cpu:8",
    )
    what.add_argument("--mode", choices=MODES, default="train", help="(default: %(default)s)")
    what.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of sampling and decoding (default: as sample's, bfloat16 on accelerators)",
    )
    what.add_argument(
        "--memory",
        choices=POLICIES,
        help="policy of sampling, as of sample (default: auto, the first that fits)",
    )
    add_quantize_flag(what)
    what.add_argument(
        "--search",
        action="store_true",
        help="try meshes, remats and batch sizes; a ranked table (default: no)",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures there (default: none)"
    )
    files.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keep the executables, for JAX to find (default: none)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
