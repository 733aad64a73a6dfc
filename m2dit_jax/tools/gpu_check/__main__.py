"""Checks what only a GPU can show, most important first, and writes report.md and report.json.

    bash launch/gpu_check.sh --minutes=9 --output=gpu_check/

Each part is a process with a time limit of its own; the report is written anew after each. Nothing
is downloaded. It needs jax, flax, optax and orbax; other packages that are missing are taken from a
folder of wheels (--wheels), which --collect-wheels makes on a machine with a network.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from m2dit_jax.tools.gpu_check.parts import PARTS, ROOT
from m2dit_jax.tools.gpu_check.record import read_rows
from m2dit_jax.tools.gpu_check.report import CheckReport, PartResult
from m2dit_jax.tools.gpu_check.sizes import FULL, TINY
from m2dit_jax.tools.gpu_check.wheels import add_wheels, collect_wheels, missing_packages

PLANNED_MINUTES = 9  # the limits of PARTS are for so many
_MOST_MINUTES = 10_000
_LOG_LINES = 15
_LEAST_SECONDS = 5  # a part that has less is not begun


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the check. Exit status: 0 all parts done, 1 a part is not, 2 a flag cannot be."""
    flags = _parser().parse_args(argv)
    if flags.collect_wheels is not None:
        try:
            collect_wheels(flags.collect_wheels, flags.python_version)
        except OSError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"Wheels are in {flags.collect_wheels}")
        return 0
    unknown = [part for part in flags.parts if part not in PARTS]
    if unknown or not 0 < flags.minutes <= _MOST_MINUTES:
        problem = f"--minutes={flags.minutes}: must be above 0 and at most {_MOST_MINUTES}"
        if unknown:
            problem = f"--parts: no {unknown[0]!r}; there are {','.join(PARTS)}"
        print(problem, file=sys.stderr)
        return 2
    report = _check(flags)
    print(f"\n{report.to_markdown()}\nWritten: {flags.output / 'report.md'} and report.json")
    return 0 if report.passed else 1


def _check(flags: argparse.Namespace) -> CheckReport:
    flags.output.mkdir(parents=True, exist_ok=True)
    site = flags.output / "site"
    report = CheckReport(
        command="launch/gpu_check.sh " + " ".join(sys.argv[1:]),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tiny=flags.tiny,
        steps=(TINY if flags.tiny else FULL).steps,
        waiting=list(flags.parts),
        missing=add_wheels(flags.wheels, site, missing_packages()),
    )
    paths = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    end = time.monotonic() + 60 * flags.minutes
    report.write(flags.output)
    while report.waiting:
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            break
        name = report.waiting.pop(0)
        limit = min(left, PARTS[name][1] * max(flags.minutes / PLANNED_MINUTES, 1))
        print(f"== {name}, at most {limit:.0f} s", flush=True)
        result = _run_part(name, limit, flags, environment)
        report.results.append(result)
        print(f"   {result.outcome}, {result.seconds:.0f} s", flush=True)
        report.write(flags.output)
    return report


def _run_part(
    name: str, limit: float, flags: argparse.Namespace, environment: Mapping[str, str]
) -> PartResult:
    """Runs one part in a process group of its own, which is ended at the limit."""
    rows, log = flags.output / f"{name}.json", flags.output / f"{name}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "m2dit_jax.tools.gpu_check.parts", name, f"--output={rows}"]
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command, *(["--tiny"] if flags.tiny else [])],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            outcome = "done" if status == 0 else f"FAILED with status {status}"
        except subprocess.TimeoutExpired:
            outcome = f"NOT FINISHED in {limit:.0f} s"
        finally:
            # Also what a part has started and left behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    seconds = time.monotonic() - started
    return PartResult(name, outcome, seconds, read_rows(rows), "\n".join(lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch/gpu_check.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=PLANNED_MINUTES,
        help="for all parts (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_check"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels for what is not installed")
    parser.add_argument(
        "--parts",
        type=lambda names: names.split(","),
        default=list(PARTS),
        help=f"of {','.join(PARTS)} (default: all)",
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try it on a CPU")
    parser.add_argument(
        "--collect-wheels", type=Path, metavar="DIR", help="download the wheels to DIR and end"
    )
    parser.add_argument(
        "--python-version", default="3.12", help="of these wheels (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
