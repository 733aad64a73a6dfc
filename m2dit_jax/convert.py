"""Converts weights, there and back: m2dit convert --source=DIR --output=DIR"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from m2dit_jax.cli import make_parser, run_command
from m2dit_jax.models.family import EXPERTS
from m2dit_jax.utils.disks import writing
from m2dit_jax.utils.progress import progress_bar
from m2dit_jax.utils.sizes import size_text
from m2dit_jax.weights.conversion import DTYPES, ConversionPlan, Job, execute, is_written, make_plan
from m2dit_jax.weights.lora_files import LoraChoice, to_both_line
from m2dit_jax.weights.model_folder import FORMS, absent_networks, unused_line
from m2dit_jax.weights.run_folder import RECORD, WEIGHTS, holds_weights

LORA = "lora"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    flags = _parser().parse_args(argv)
    return run_command(
        lambda: _convert(flags),
        on_interrupt=f"interrupted; the same command goes on from {flags.output}.partial",
    )


def _convert(flags: argparse.Namespace) -> None:
    started = time.perf_counter()
    if flags.to == LORA:
        print(_export_lora(flags))
        return
    plan = _plan(flags)
    if RECORD in plan.texts:
        record = json.loads(plan.texts[RECORD])
        print(f"{record['checkpoint']}: weights {record['weights']} of step {record['step']}")
    left_out = _left_out(plan)
    if sum(job.component.name in EXPERTS.values() for job in plan.jobs) > 1 and (
        line := to_both_line([LoraChoice.parse(text) for text in flags.lora])
    ):
        print(line)
    if is_written(plan):
        execute(plan, lambda count: None)
        print(f"{plan.output}: whole, {plan.to} form (was finished before)")
        return
    left = plan.unfinished_jobs()
    total = sum(job.nbytes for job in left)
    with progress_bar(total, "convert", "B") as progress, writing(plan.partial):
        execute(plan, progress.update)
    for job in plan.jobs:
        print(_line(job) + ("" if job in left else " (written by an earlier run)"))
    print("".join(f"{line}\n" for line in left_out), end="")
    size = sum(job.nbytes for job in plan.jobs)
    seconds = time.perf_counter() - started
    print(f"{plan.output}: {plan.to} form, {size_text(size)} of weights, {seconds:.1f} s")


def _export_lora(flags: argparse.Namespace) -> Path:
    for flag in ("base", "dtype", "lora"):
        if getattr(flags, flag):
            raise ValueError(f"--{flag} does not go with --to={LORA}")
    from m2dit_jax.pipeline.export import export_lora

    return export_lora(flags.source, flags.output, flags.weights)


def _plan(flags: argparse.Namespace) -> ConversionPlan:
    lora = [LoraChoice.parse(text) for text in flags.lora]
    if holds_weights(flags.source):
        # Only now: the imports take seconds.
        from m2dit_jax.pipeline.export import make_export_plan

        return make_export_plan(
            flags.source, flags.output, flags.to, flags.dtype, flags.base, flags.weights, lora
        )
    for flag in ("base", "weights"):
        if getattr(flags, flag) is not None:
            raise ValueError(
                f"--{flag} is for a training run, and {flags.source} holds no checkpoint"
            )
    return make_plan(flags.source, flags.output, flags.to, flags.dtype, lora)


def _line(job: Job) -> str:
    dtypes = sorted({str(leaf.dtype) for leaf in job.leaves.values()})
    name = job.component.name or job.component.directory.name
    torch = f"{len(job.parts)} tensors of PyTorch, " if job.parts else ""
    arrays = f"{len(job.leaves)} arrays here, {size_text(job.nbytes)}"
    return f"{name}: {torch}{arrays}, {', '.join(dtypes)}"


def _left_out(plan: ConversionPlan) -> list[str]:
    if plan.jobs[0].plain is None:  # a run without a base
        return []
    return [
        f"{name}: not in {plan.source}, left out" for name in absent_networks(plan.source)
    ] + list(filter(None, [unused_line(plan.source)]))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "convert",
        "Converts a model folder, or the folder of one network, between the files of diffusers\n"
        "(safetensors) and Orbax; all other files are copied. Of a training run it writes a model\n"
        "folder: the transformer that was trained, and the other networks of its base. A run with\n"
        "a text encoder of its own becomes a folder for `sample`, `evaluate` and `init_from` only.",
        "--source=runs/finetune_5b --output=mine --dtype=bfloat16",
    )
    folders = parser.add_argument_group("folders")
    folders.add_argument(
        "--source",
        type=Path,
        required=True,
        help="model folder, in either form; or training run, or folder of one of its steps",
    )
    folders.add_argument(
        "--output", type=Path, required=True, help="folder that does not exist yet"
    )
    run = parser.add_argument_group("of a training run")
    run.add_argument(
        "--base",
        type=Path,
        help="model folder that the other networks are from (default: the one that training "
        "started from)",
    )
    run.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="ema: the moving average; params: the last ones (default: ema where it was kept)",
    )
    form = parser.add_argument_group("form")
    form.add_argument(
        "--to",
        choices=(*FORMS, LORA),
        help="form of the files (default: the one the source is not in; of a run: diffusers); "
        "lora: the adapters alone that a run has trained, as a file for diffusers",
    )
    form.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="[EXPERT=]FILE[:WEIGHT]",
        help="LoRA to add to the transformer, several times for several (default: none); of a "
        "model of two transformers, high_noise= or low_noise= before it is for one of them",
    )
    form.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: as it is, and bitwise exact)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
