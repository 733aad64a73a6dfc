"""Starts each command twice at once on the same output: python -m tests.pairs --count=10

Right is a pair of which one ends with the result of an undisturbed run while the other says in a
line why it cannot, with status 2; or of which both end well, with that result. The app is started
twice on the same port, and ("ports") on the same folder at two ports, with a story made from both
pages. Every second pair has nothing compiled that it could share. A table is printed; the status is
1 unless all are right.
"""

import argparse
import dataclasses
import random
import shutil
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tests.faults import Command, Running, clear, commands, prepare, time_of
from tests.kept_results import KeptResults

PORT = "--port=7799"
REFUSALS = (
    *("another process is training there", "another process makes a story there"),
    *("another process is writing to it", "is converting to it", "exists already"),
    *("Address already in use", "is being made already"),
)


def pair(name: str, command: Command, out: Path, delay: float, right: str) -> str:
    """What became of two that were started `delay` seconds apart, in a word or three."""
    clear(out)
    both = [Running(name, command, out)]
    time.sleep(delay)
    both.append(Running(name, command, out))
    statuses = [running.end() for running in both]
    for running, status in zip(both, statuses, strict=True):
        if running.has_traceback():
            return f"traceback: {running.printed()[-2000:]!r}"
        said = running.problem or running.printed().strip().splitlines()[-1]
        if (status or running.problem) and not any(words in said for words in REFUSALS):
            return f"status {status}: {said!r}"
        if status not in (0, 2):
            return f"status {status}: {said!r}"
    ended = [status == 0 and not r.problem for r, status in zip(both, statuses, strict=True)]
    if not any(ended):
        return f"both failed: {[running.printed()[-300:] for running in both]}"
    if command.digest(out) != right:
        return "another result"
    return "both right" if all(ended) else "one refused"


def main() -> int:
    """Runs the campaign and prints its table."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="*", help="in this order; default: all")
    parser.add_argument("--count", type=int, default=10, help="pairs of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/m2dit_pairs"))
    parser.add_argument("--results", type=Path, help="file of what was found, to go on from")
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    prepare(flags.work)
    results, all_commands, failed = KeptResults(flags.results), _all(flags.work), False
    print("| pairs of | one refused | both right | wrong |\n|---|---|---|---|", flush=True)
    for name in flags.commands or all_commands:
        found = _campaign(name, all_commands[name], flags, results)
        good = found["one refused"], found["both right"]
        failed |= flags.count > sum(good)
        print(f"| {name} | {good[0]} | {good[1]} | {flags.count - sum(good)} |", flush=True)
    return int(failed)


def _campaign(
    name: str, command: Command, flags: argparse.Namespace, results: KeptResults
) -> Counter[str]:
    """How often each outcome was found."""
    out, program = flags.work / f"out_{name.replace(' ', '_')}", name.split()[0]

    def undisturbed() -> str:
        time_of(program, command, out)
        return command.digest(out)

    def turn_of(turn: int) -> str:
        draw = random.Random(f"{flags.seed} {name} {turn}")
        if turn % 2:
            shutil.rmtree(flags.work / "compiled", ignore_errors=True)
        return pair(program, command, out, draw.choice((0, draw.uniform(0, 1))), right)

    found, right = Counter[str](), results.get(f"{name}, undisturbed", undisturbed)
    for turn in range(flags.count):
        outcome = results.get(f"{name}, {flags.seed} {turn}", partial(turn_of, turn))
        found[outcome] += 1
        print(f"{name} {turn}: {outcome}", file=sys.stderr, flush=True)
    return found


def _all(work: Path) -> dict[str, Command]:
    found = commands(work)
    app = found.pop("app")
    on_port = dataclasses.replace(app, flags=lambda out: [*app.flags(out), PORT])
    return {**found, "app": on_port, "app ports": app}


if __name__ == "__main__":
    sys.exit(main())
