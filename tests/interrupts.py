"""Interrupts commands at random moments: python -m tests.interrupts --count=100 --signal=int

Each command is run once undisturbed. Then, so often as asked for: started in an empty folder, sent
the signal at a random moment from 0.2 s on, and run again to its end. The result must be bitwise
that of the undisturbed run. Of the app that is a story made from its page, and the second time the
page must show the story and go on with it. A table is printed; the status is 1 unless all are
clean.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults import Command, Running, clear, commands, prepare, time_of

SIGNALS = {name: getattr(signal, f"SIG{name.upper()}") for name in ("int", "term", "kill")}
MOST_SECONDS = 15.0  # from the signal to the end; a training saves first


def interrupt(
    name: str, command: Command, out: Path, number: int, seconds: float, right: str
) -> str:
    """One interruption after so many seconds, in a word; "clean" and "was done" are right."""
    clear(out)
    running = Running(name, command, out)
    try:
        status = running.end(seconds)
        return f"ended too early with {status}" if status else "was done"
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
    if status not in (0, expected):
        return f"status {status}: {running.printed()[-300:]!r}"
    if running.has_traceback():
        return f"traceback: {running.printed()[-300:]!r}"
    if took > MOST_SECONDS:
        return "slow"
    again = Running(name, command, out)
    status = again.end()
    if again.problem:
        return f"again: {again.problem}"
    # A conversion that was whole says so.
    if status and not (name == "convert" and "exists" in again.printed()):
        return f"again: status {status}: {again.printed()[-300:]!r}"
    return "clean" if command.digest(out) == right else "another result"


def main() -> int:
    """Runs the campaign and prints its table."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="*", help="default: all")
    parser.add_argument("--count", type=int, default=100, help="interrupts of each command")
    parser.add_argument("--signal", choices=SIGNALS, default="int")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/m2dit_interrupts"))
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    prepare(flags.work)
    draw, failed, rows = random.Random(flags.seed), False, []
    for name, command in commands(flags.work).items():
        if flags.commands and name not in flags.commands:
            continue
        out = flags.work / f"out_{name}"
        seconds = time_of(name, command, out)
        right, found = command.digest(out), Counter()
        for turn in range(flags.count):
            moment, began = draw.uniform(0.2, seconds), time.monotonic()
            outcome = interrupt(name, command, out, SIGNALS[flags.signal], moment, right)
            if outcome == "was done":  # the machine was busier when it was timed
                seconds = min(seconds, time.monotonic() - began)
            found[outcome] += 1
            failed |= outcome not in ("clean", "was done")
            print(f"{name} {turn} at {moment:.2f} s: {outcome}", file=sys.stderr, flush=True)
        good = found["clean"], found["was done"], flags.count - found["clean"] - found["was done"]
        rows.append(f"| {name} | {seconds:.1f} s | " + " | ".join(map(str, good)) + " |")
        print(rows[-1], flush=True)
    print(f"\n| SIG{flags.signal.upper()} | takes | clean | was done | wrong |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
