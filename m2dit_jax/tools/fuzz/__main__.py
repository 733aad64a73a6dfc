"""Damages small inputs of every kind and reads them: python -m m2dit_jax.tools.fuzz

Each must be accepted, or refused with a message that names it. A traceback, a hang, a crash or a
growth is a failure; such inputs are kept, and are read again by --replay.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from m2dit_jax.cli import (
    WorkFailed,
    bounded_float,
    bounded_int,
    make_parser,
    run_command,
    seed_number,
)
from m2dit_jax.tools.fuzz.kinds import KINDS, make_input
from m2dit_jax.tools.fuzz.worker import ACCEPTED, FAILURES, REFUSED, Reader, outcome_of

Counts = dict[str, Counter[str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says; 1: inputs failed."""
    flags = _parser().parse_args(argv)
    return run_command(lambda: _replay(flags.replay) if flags.replay else _fuzz(flags))


def _fuzz(flags: argparse.Namespace) -> None:
    unknown = [kind for kind in flags.kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"--kinds: no {unknown[0]!r}; there are {','.join(KINDS)}")
    flags.failures.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    counts = fuzz(
        flags.kinds,
        flags.inputs,
        flags.seed,
        flags.failures,
        seconds=flags.seconds,
        limit=flags.limit,
    )
    print(to_markdown(counts))
    print(f"\n{time.monotonic() - started:.0f} s, seed {flags.seed}")
    failed = sum(count[name] for count in counts.values() for name in FAILURES)
    if failed:
        raise WorkFailed(f"{failed} inputs failed; each lies in {flags.failures}, for --replay")


def fuzz(
    kinds: Sequence[str],
    inputs: int,
    seed: int,
    failures: Path,
    *,
    seconds: float = float("inf"),
    limit: float = 10.0,
    growth: int = 2 * 10**9,
) -> Counts:
    """How many inputs of each kind had which outcome.

    Those that failed are kept in `failures`. `limit` is the most seconds for one, `growth` the most
    bytes of memory; after `seconds` no other is begun.
    """
    counts: Counts = {kind: Counter() for kind in kinds}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="m2dit_fuzz_") as name:
        good = Path(name, "good")
        for kind in kinds:
            KINDS[kind].make(good / kind)
        reader = Reader(good, list(kinds), limit, growth)
        try:
            for kind, number in _order(kinds, inputs, seed):
                if time.monotonic() > end:
                    break
                folder = Path(name, f"{kind}-{number}")
                make_input(kind, good / kind, number, seed, folder)
                outcome = reader.read(kind, folder)
                counts[kind][outcome.name] += 1
                if outcome.name in FAILURES:
                    _keep(failures, folder, kind, f"{outcome.name}\n{outcome.text}\n")
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            reader.close()
    return counts


def _order(kinds: Sequence[str], inputs: int, seed: int) -> list[tuple[str, int]]:
    """The inputs, by the kinds' shares, mixed, so that any beginning has all kinds."""
    total = sum(KINDS[kind].share for kind in kinds)
    order = [
        (kind, number)
        for kind in kinds
        for number in range(max(round(inputs * KINDS[kind].share / total), 1))
    ]
    Random(seed).shuffle(order)
    return order


def _keep(failures: Path, folder: Path, kind: str, text: str) -> None:
    kept = failures / folder.name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    (kept / "kind.txt").write_text(kind, encoding="utf-8")
    (kept / "outcome.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    shutil.move(folder, kept / "input")


def _replay(folder: Path) -> None:
    """Reads a kept input in this process and prints what comes of it."""
    kind = (folder / "kind.txt").read_text(encoding="utf-8")
    if kind not in KINDS:
        raise ValueError(f"{folder / 'kind.txt'}: found {kind!r}, needs one of {','.join(KINDS)}")
    outcome = outcome_of(kind, folder / "input")
    print(f"{outcome.name}\n{outcome.text}")
    if outcome.name in FAILURES:
        raise WorkFailed(f"{folder}: {outcome.name}")


def to_markdown(counts: Counts) -> str:
    """A table of the outcomes."""
    lines = ["| kind | inputs | accepted | refused | failed |", "|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for kind, count in counts.items():
        lines.append(_row(kind, count))
        total += count
    return "\n".join([*lines, _row("all", total)])


def _row(kind: str, count: Counter[str]) -> str:
    failed = [f"{count[name]} {name}" for name in FAILURES if count[name]]
    cells = (kind, count.total(), count[ACCEPTED], count[REFUSED], ", ".join(failed) or 0)
    return f"| {' | '.join(map(str, cells))} |"


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("fuzz", __doc__ or "", "--inputs=1000 --kinds=storyboards,videos")
    parser.prog = "python -m m2dit_jax.tools.fuzz"
    parser.epilog = f"Example: {parser.prog} --inputs=1000 --kinds=storyboards,videos"
    parser.add_argument(
        "--inputs",
        type=bounded_int(1, 10**7),
        default=10_000,
        help="how many, over all kinds (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=bounded_float(1, 10**7),
        default=float("inf"),
        help="begin no other after so many (default: no limit)",
    )
    parser.add_argument("--seed", type=seed_number, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--kinds",
        type=lambda names: names.split(","),
        default=list(KINDS),
        help=f"of {','.join(KINDS)} (default: all)",
    )
    parser.add_argument(
        "--limit",
        type=bounded_float(0.1, 3600),
        default=10.0,
        help="seconds for one input (default: %(default)s)",
    )
    parser.add_argument(
        "--failures",
        type=Path,
        default=Path("fuzz_failures"),
        help="folder for inputs that failed (default: %(default)s)",
    )
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="read one of those again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
