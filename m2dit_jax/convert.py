"""Converts weights, there and back: m2dit convert --source=DIR --output=DIR"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import make_parser, run_command
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.weights.conversion import DTYPES, ConversionPlan, Job, execute, make_plan
from m2dit_jax.weights.model_folder import FORMS, absent_networks, unknown_networks


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    flags = _parser().parse_args(argv)
    return run_command(
        lambda: _convert(flags),
        on_interrupt=f"interrupted; the same command goes on from {flags.output}.partial",
    )


def _convert(flags: argparse.Namespace) -> None:
    started = time.perf_counter()
    plan = make_plan(flags.source, flags.output, flags.to, flags.dtype)
    left_out = _left_out(plan)
    left = plan.unfinished_jobs()
    with progress_bar(sum(job.nbytes for job in left), "convert", "B") as progress:
        execute(plan, progress.update)
    for job in plan.jobs:
        print(_line(job) + ("" if job in left else " (written by an earlier run)"))
    print("".join(f"{line}\n" for line in left_out), end="")
    size = sum(job.nbytes for job in plan.jobs)
    seconds = time.perf_counter() - started
    print(f"{plan.output}: {plan.to} form, {_size(size)} of weights, {seconds:.1f} s")


def _line(job: Job) -> str:
    dtypes = sorted({str(leaf.dtype) for leaf in job.leaves.values()})
    name = job.component.name or job.component.directory.name
    return (
        f"{name}: {len(job.parts)} tensors of PyTorch, {len(job.leaves)} arrays here, "
        f"{_size(job.nbytes)}, {', '.join(dtypes)}"
    )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"


def _left_out(plan: ConversionPlan) -> list[str]:
    return [f"{name}: not in {plan.source}, left out" for name in absent_networks(plan.source)] + [
        f"{name}: no part of the model, left out" for name in unknown_networks(plan.source)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "convert",
        "Converts a model folder, or the folder of one network, between the files of diffusers\n"
        "(safetensors) and Orbax. All other files are copied.",
        "--source=CogVideoX-5b --output=CogVideoX-5b-orbax",
    )
    folders = parser.add_argument_group("folders")
    folders.add_argument("--source", type=Path, required=True, help="model folder, in either form")
    folders.add_argument(
        "--output", type=Path, required=True, help="folder that does not exist yet"
    )
    form = parser.add_argument_group("form")
    form.add_argument(
        "--to", choices=FORMS, help="form of the files (default: the one the source is not in)"
    )
    form.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: as it is, and bitwise exact)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
