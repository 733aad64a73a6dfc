"""Interrupts commands at random moments: python -m tests.interrupts --count=100 --signal=int

Each command is run once undisturbed. Then, so often as asked for: started in an empty folder, sent
the signal at a random moment from 0.2 s on, started again there, interrupted again, four times in
a row, and then run to its end. The result must be bitwise that of the undisturbed run. Of the app
that is a story made from its page, and after a signal the page must show the story and go on with
it. A table is printed; the status is 1 unless all are clean.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults import Command, Running, commands, prepare, time_of
from tests.kept_results import KeptResults

SIGNALS = {
    "int": [signal.SIGINT],
    "term": [signal.SIGTERM],
    "both": [signal.SIGINT, signal.SIGTERM],  # in turn
    "kill": [signal.SIGKILL],
}
MOST_SECONDS = 15.0  # from the signal to the end; a training saves first
IN_A_ROW = 4
CUT_SHORT = "clean", "Python began"  # the latter: no line of ours had run
RIGHT = *CUT_SHORT, "was done"


def interrupt(running: Running, number: int, seconds: float) -> str:
    """One signal after so many seconds, in a word or more; those of `RIGHT` are right."""
    try:
        return _problem(running, running.end(seconds)) or "was done"
    except subprocess.TimeoutExpired:
        running.process.send_signal(number)
    sent = time.monotonic()
    try:
        status = running.end(60)
    except subprocess.TimeoutExpired:
        running.process.kill()
        return "did not end"
    took = time.monotonic() - sent
    expected = -number if number == signal.SIGKILL else 128 + number
    if status == -number != expected and "m2dit_jax/" not in running.printed():
        return "Python began"
    if status not in (0, expected):
        return f"status {status}: {running.printed()[-300:]!r}"
    if running.has_traceback():
        return f"traceback: {running.printed()[-300:]!r}"
    return f"slow, {took:.0f} s" if took > MOST_SECONDS else "clean"


def row(
    name: str, command: Command, out: Path, signals: list[int], moments: list[float], right: str
) -> tuple[list[str], float | None]:
    """What became of interrupts in a row, one outcome each; the last tells of the result as well.

    A run that was done before its signal, or wrong, ends the row. If the first one was done, the
    seconds that it took come too.
    """
    command.clear(out)
    outcomes: list[str] = []
    began, whole = time.monotonic(), None
    for number, seconds in zip(signals, moments, strict=True):
        if outcomes and outcomes[-1] not in CUT_SHORT:
            break
        outcomes.append(interrupt(Running(name, command, out), number, seconds))
    if outcomes == ["was done"]:
        whole = time.monotonic() - began
    if outcomes[-1] in CUT_SHORT:
        again = Running(name, command, out)
        outcomes[-1] = _problem(again, again.end()) or outcomes[-1]
    if outcomes[-1] in RIGHT and command.digest(out) != right:
        outcomes[-1] = "another result"
    return outcomes, whole


def _problem(running: Running, status: int) -> str:
    """What is wrong with a run that nobody interrupted."""
    if running.problem:
        return f"the page: {running.problem}"
    # A conversion that was whole before says so.
    if status and "exists" not in running.printed():
        return f"undisturbed, status {status}: {running.printed()[-300:]!r}"
    return ""


def main() -> int:
    """Runs the campaign and prints its table."""
    parser = flags_of_campaign(__doc__)
    parser.add_argument("--signal", choices=SIGNALS, default="int")
    return run_campaign(parser.parse_args())


def flags_of_campaign(text: str | None) -> argparse.ArgumentParser:
    """The flags of each campaign of signals, described by a text."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--commands", nargs="*", help="in this order; default: all")
    parser.add_argument("--count", type=int, default=100, help="interrupts of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/m2dit_interrupts"))
    parser.add_argument("--results", type=Path, help="file of what was found, to go on from")
    return parser


def run_campaign(
    flags: argparse.Namespace, elsewhere: Callable[[Command], Command] = lambda command: command
) -> int:
    """The exit status, after the table. What is interrupted is each command `elsewhere`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
    flags.work.mkdir(parents=True, exist_ok=True)
    prepare(flags.work)
    results, all_commands = KeptResults(flags.results), commands(flags.work)
    failed, rows = False, []
    for name in flags.commands or all_commands:
        command = all_commands[name]
        seconds, found = _interrupts(name, command, elsewhere(command), flags, results)
        counts = [found[outcome] for outcome in RIGHT]
        wrong = sum(found.values()) - sum(counts)
        failed |= wrong > 0
        rows.append(
            f"| {name} | {seconds:.1f} s | " + " | ".join(map(str, [*counts, wrong])) + " |"
        )
        print(rows[-1], flush=True)
    print(f"\n| SIG{flags.signal.upper()} | takes | clean | before our code | was done | wrong |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))
    return int(failed)


def _interrupts(
    name: str,
    command: Command,
    there: Command,
    flags: argparse.Namespace,
    results: KeptResults,
) -> tuple[float, Counter[str]]:
    """The seconds that a command takes, and how often each outcome was found.

    `there` is what is interrupted: the same command, perhaps with its output elsewhere.
    """
    out, found, turn = flags.work / f"out_{name}", Counter[str](), 0

    def undisturbed() -> tuple[float, str]:
        seconds = time_of(name, command, out)
        return seconds, command.digest(out)

    seconds, right = results.get(f"{name}, undisturbed", undisturbed)
    seconds *= there.longer
    while found.total() < flags.count:
        draw = random.Random(f"{flags.seed} {name} {turn}")
        length = min(IN_A_ROW, flags.count - found.total())
        moments = [draw.uniform(0.2, seconds) for _ in range(length)]
        kinds = SIGNALS[flags.signal]
        signals = [kinds[i % len(kinds)] for i in range(length)]
        outcomes, whole = results.get(
            f"{name}{there.where}, {flags.signal} {flags.seed} {turn}",
            lambda: row(name, there, out, signals, moments, right),  # noqa: B023 (used at once)
        )
        found.update(outcomes)
        if whole is not None:  # the machine was busier when it was timed
            seconds = min(seconds, whole)
        print(f"{name} {turn} at {moments}: {outcomes}", file=sys.stderr, flush=True)
        turn += 1
    return seconds, found


if __name__ == "__main__":
    sys.exit(main())
