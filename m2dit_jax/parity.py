"""Compares this implementation with golden files of the PyTorch reference.

m2dit parity --reference=DIR
"""

import argparse
import fnmatch
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from m2dit_jax.cli import make_parser, run_command
from m2dit_jax.tools.parity.files import golden_files, not_exercised, run_checks
from m2dit_jax.tools.parity.golden import Case
from m2dit_jax.tools.parity.models import ReferenceModels
from m2dit_jax.utils.files import atomic_write


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says; 1: a case fails."""
    flags = _parser().parse_args(argv)
    return run_command(lambda: _compare(flags))


def _compare(flags: argparse.Namespace) -> int:
    # Accelerators would round the factors of float32 products to fewer bits.
    jax.config.update("jax_default_matmul_precision", "highest")
    started = time.perf_counter()
    names, cases = _selected(flags.reference, flags.only)
    for case in cases:
        print(_row(case), flush=True)
    for case in run_checks(flags.reference, names, ReferenceModels(flags.reference)):
        print(_row(case), flush=True)
        cases.append(case)
    failed = [case for case in cases if not case.passed]
    seconds = time.perf_counter() - started
    print(f"\n{len(cases)} cases of {len(names)} files in {seconds:.0f} s: ", end="")
    print(f"{len(failed)} FAILED" if failed else "all pass")
    for case in failed:
        print(_row(case))
    if flags.json:
        with atomic_write(flags.json) as part:
            part.write_text(json.dumps([_entry(case) for case in cases], indent=1) + "\n")
        print(f"Written: {flags.json}")
    return 1 if failed else 0


def _selected(reference: Path, only: str | None) -> tuple[dict[str, str], list[Case]]:
    """Files to check with their kinds, and what fails by not being exercised."""
    if not reference.is_dir():
        raise ValueError(f"--reference={reference}: no such folder")
    names, cases = golden_files(reference)
    if only is None:
        return names, cases + not_exercised(reference, names)
    chosen = {n: k for n, k in names.items() if only in n or fnmatch.fnmatch(n, only)}
    if not chosen:
        raise ValueError(
            f"--only={only}: no file of {reference} has that in its name; there are "
            + ", ".join(names)
        )
    return chosen, []


def _row(case: Case) -> str:
    verdict = "pass" if case.passed else "FAIL"
    error = "-" if math.isnan(case.error) else f"{case.error:.1e}"
    note = f"  {case.note}" if case.note else ""
    return f"{verdict}  {error:>8} <= {case.limit:.1e}  {case.case}{note}"


def _entry(case: Case) -> dict[str, str | float | bool | None]:
    """The entry of the JSON file, which has no NaN and no infinity."""
    error = case.error if math.isfinite(case.error) else None
    return {"case": case.case, "error": error, "limit": case.limit, "passed": case.passed}


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "parity",
        "Compares every array of a golden set with what this implementation gives.",
        "--reference=golden/ --only=vae",
    )
    parser.add_argument("--reference", type=Path, required=True, help="folder of the golden set")
    parser.add_argument(
        "--only", help="files with this in their name, or like this pattern (default: all)"
    )
    parser.add_argument("--json", type=Path, help="file to write all cases to (default: none)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
