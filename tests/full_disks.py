"""Fills the disk that commands write to, as root on Linux: python -m tests.full_disks --rooms 0 0.5

Each command is run once with room for all. Then, for each share of the bytes that it wrote: run
with that room, which must end with one line that names a file or folder of the disk and
what is wrong, a status other than 0, no traceback and no file of a name that only begun ones have;
and run again with room for all, after which the result must be bitwise that of the first run. The
app need not end, but must show that line. A table is printed; the status is 1 unless all are right.
"""

import argparse
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

from m2dit_jax.evaluation.videos import PAGE, SCORES
from tests.faults import TINY, Command, Running, commands, prepare, without_times
from tests.kept_results import KeptResults

SIZE = 256 << 20  # of the disk
ROOM_TO_CONVERT = 102_000_000


def fill(command: Command, name: str, disk: Path, room: int, right: str) -> str:
    """What became of a command with so many bytes of room, in a word or more."""
    out = disk / "out"
    _empty(disk)
    late = name == "convert"  # it looks for room before it begins: it is taken from it then
    _leave(disk, room + (ROOM_TO_CONVERT if late else 0))
    running = Running(name, command, out, logs=disk.parent)
    while late and not out.with_name("out.partial").exists() and running.process.poll() is None:
        time.sleep(0.001)
    _leave(disk, room)
    status = running.end()
    if running.has_traceback():
        return f"traceback: {running.printed()[-3000:]!r}"
    said = running.problem or (running.printed().strip().splitlines() or [""])[-1]
    ended = status == 0 and not running.problem
    if not ended and not all(words in said for words in (str(disk), " are free")):
        return f"status {status}: {running.problem} {running.printed()[-500:]!r}"
    if begun := [path for path in disk.rglob("*") if path.name.endswith((".part", ".tmp"))]:
        return f"left behind: {begun}"
    (disk / "ballast").unlink()
    if not ended:
        again = Running(name, command, out, logs=disk.parent)
        if again.end() or again.problem:
            return f"again: {again.problem} {again.printed()[-500:]!r}"
    if command.digest(out) != right:
        return "another result" if ended else "another result, again"
    return "was done" if ended else "said"


def main() -> int:
    """Runs the campaign and prints its table."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="*", help="in this order; default: all")
    parser.add_argument("--rooms", type=float, nargs="*", default=[n / 8 for n in range(8)])
    parser.add_argument("--work", type=Path, default=Path("/tmp/m2dit_full_disks"))
    parser.add_argument("--results", type=Path, help="file of what was found, to go on from")
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    prepare(flags.work)
    if not (flags.work / "story" / "story.json").is_file():
        Running("sample", commands(flags.work)["sample"], flags.work / "story").end()
    disk, failed, results = flags.work / "disk", False, KeptResults(flags.results)
    all_commands = _all(flags.work)
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "m2dit", str(disk)], check=True)
    try:
        print(
            "| command | writes | in a line | had room | wrong |\n|---|---|---|---|---|", flush=True
        )
        for name in flags.commands or all_commands:
            command, program, found = all_commands[name], name.split()[0], Counter[str]()
            right, used = results.get(
                f"{name}, undisturbed", partial(_undisturbed, program, command, disk)
            )
            for share in flags.rooms:
                room = int(used * share)
                outcome = results.get(
                    f"{name}, {share}", partial(fill, command, program, disk, room, right)
                )
                found[outcome] += 1
                failed |= outcome not in ("said", "was done")
                print(f"{name}, {room} of {used}: {outcome}", file=sys.stderr, flush=True)
            good = found["said"], found["was done"]
            counts = f"{good[0]} | {good[1]} | {len(flags.rooms) - sum(good)}"
            print(f"| {name} | {used / 1e6:.2f} MB | {counts} |", flush=True)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return int(failed)


def _undisturbed(name: str, command: Command, disk: Path) -> tuple[str, int]:
    """The digest of the result, and the bytes that it takes."""
    _empty(disk)
    running = Running(name, command, disk / "out", logs=disk.parent)
    if running.end() or running.problem:
        raise RuntimeError(f"{name}: {running.problem}\n{running.printed()}")
    left = os.statvfs(disk)
    return command.digest(disk / "out"), (left.f_blocks - left.f_bfree) * left.f_frsize


def _leave(disk: Path, room: int) -> None:
    """Has the file `ballast` take all but so many bytes."""
    with (disk / "ballast").open("ab") as file:
        while True:
            left, begin = os.statvfs(disk), file.seek(0, os.SEEK_END)
            take = left.f_bavail * left.f_frsize - room
            if take <= 0:
                return
            with suppress(OSError):  # the command took some of it meanwhile
                os.posix_fallocate(file.fileno(), begin, take)


def _empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _all(work: Path) -> dict[str, Command]:
    found = commands(work)
    run = work / "run"
    watched = [f"--config.train.{name}_every=20" for name in ("preview", "validate")]
    train, sample = found["train"], found["sample"]
    found["train"] = dataclasses.replace(
        train,
        flags=lambda out: [*train.flags(out), *watched, "--config.train.validation_stories=2"],
    )
    # What is compiled only is a matter of time.
    found["sample cache"] = dataclasses.replace(
        sample, flags=lambda out: [*sample.flags(out)[:-1], f"--compile_cache={out.parent}/cache"]
    )
    found["evaluate sheet"] = Command(
        lambda out: [
            *(f"--checkpoint={run}", "--stories=4", f"--sheet={out}/sheet.png"),
            f"--compile_cache={work}/compiled",
        ],
        lambda out: str((out / "sheet.png").read_bytes()),
    )
    return found | {
        "evaluate videos": Command(
            lambda out: ["videos", f"--videos={work}/story", f"--output={out}"],
            lambda out: without_times(out / SCORES) + str((out / PAGE).is_file()),
        ),
        "plan": Command(
            lambda out: ["--config=base", *TINY, "--topology=cpu:1", f"--json={out}.json"],
            lambda out: without_times(out.with_suffix(".json")),
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
