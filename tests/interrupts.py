"""Interrupts commands at random moments: python -m tests.interrupts --count=100 --signal=int

Each command is run once undisturbed. Then, so often as asked for: started in an empty folder, sent
the signal at a random moment from 0.2 s on, and run again to its end. The result must be bitwise
that of the undisturbed run. A table is printed; the status is 1 unless all are clean.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIGNALS = {name: getattr(signal, f"SIG{name.upper()}") for name in ("int", "term", "kill")}
MOST_SECONDS = 15.0  # from the signal to the end; a training saves first
TINY = [
    *("--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"),
    *("--config.model.time_dim=16", "--config.train.batch_size=2", "--config.train.eval_every=0"),
    *("--config.train.warmup_steps=0", "--config.sample.steps=2", "--config.train.log_every=1"),
]


@dataclass(frozen=True)
class Command:
    """A command's flags for a folder that it writes to, and the digest of what it wrote there."""

    flags: Callable[[Path], list[str]]
    digest: Callable[[Path], str]


def commands(work: Path) -> dict[str, Command]:
    """The commands by name; `work` holds what they read (see `prepare`) and what they compile."""
    run, clips, cache = work / "run", work / "clips", f"--compile_cache={work}/compiled"
    return {
        "train": Command(
            lambda out: [
                *("--config=base", *TINY, "--config.train.steps=40"),
                *("--config.train.checkpoint_every=5", f"--workdir={out}", cache),
            ],
            lambda out: _run_digest(out, 40),
        ),
        "sample": Command(
            lambda out: [
                *(f"--checkpoint={run}", "--storyboard=lone_actor", f"--output={out}", cache)
            ],
            lambda out: (
                _bytes(out, "*.mp4", "storyboard.json")
                + json.loads((out / "story.json").read_text())["frames_sha256"]
            ),
        ),
        "encode": Command(
            lambda out: [
                *(f"--manifest={clips}/stories.jsonl", f"--output={out}", "--codec=pixels"),
                *("--frames=8", "--height=32", "--width=32", "--shard_scenes=2"),
            ],
            lambda out: _bytes(out, "*"),
        ),
        "convert": Command(
            lambda out: [f"--source={ROOT}/tests/golden/pipe_2b", f"--output={out}"],
            _arrays_digest,
        ),
        "evaluate": Command(
            lambda out: [f"--checkpoint={run}", "--stories=4", f"--json={out}/report.json", cache],
            lambda out: _without_times(out / "report.json"),
        ),
    }


def prepare(work: Path) -> None:
    """Writes, unless it is there, the trained run and the clips that the commands read."""
    if not (work / "run" / "checkpoints" / "1").is_dir():
        flags = ["--config=base", *TINY, "--config.train.steps=1", f"--workdir={work}/run"]
        subprocess.run([*_python("train"), *flags], cwd=ROOT, check=True)
    if not (work / "clips" / "stories.jsonl").is_file():
        from tests.test_encode import COLOURS, write_manifest, write_video

        (work / "clips").mkdir(exist_ok=True)
        for name, colour in COLOURS.items():
            write_video(work / "clips" / f"{name}.mp4", colour=colour)
        names = [f"{name}.mp4" for name in COLOURS]
        stories = {f"story {i}": [names[i % 3], names[(i + 1) % 3]] for i in range(20)}
        write_manifest(work / "clips" / "stories.jsonl", stories)


def interrupt(
    name: str, command: Command, out: Path, number: int, seconds: float, right: str
) -> str:
    """One interruption after so many seconds, in a word; "clean" and "was done" are right."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(f"{out.name}.partial"), ignore_errors=True)
    line = [*_python(name), *command.flags(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(line, cwd=ROOT, text=True, errors="replace", **pipes)
    try:
        printed, _ = process.communicate(timeout=seconds)
        return f"ended too early with {process.returncode}" if process.returncode else "was done"
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    sent = time.monotonic()
    try:
        printed, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return "did not end"
    took = time.monotonic() - sent
    expected = -number if number == signal.SIGKILL else 128 + number
    if process.returncode not in (0, expected):
        return f"status {process.returncode}: {printed[-300:]!r}"
    if "Traceback" in printed or "Exception ignored" in printed:
        return f"traceback: {printed[-300:]!r}"
    if took > MOST_SECONDS:
        return "slow"
    again = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    # A conversion that was whole says so.
    if again.returncode and not (name == "convert" and "exists" in again.stderr):
        return f"again: status {again.returncode}: {again.stderr[-300:]!r}"
    return "clean" if command.digest(out) == right else "another result"


def _python(name: str) -> list[str]:
    return [sys.executable, "-m", f"m2dit_jax.{name}"]


def _run_digest(workdir: Path, step: int) -> str:
    from m2dit_jax.weights.orbax_files import open_arrays

    arrays = open_arrays(workdir / "checkpoints" / str(step) / "state")
    return _tensors(arrays) + _bytes(workdir, "metrics.jsonl")


def _arrays_digest(folder: Path) -> str:
    from m2dit_jax.weights.networks import ORBAX
    from m2dit_jax.weights.orbax_files import open_arrays

    return "".join(_tensors(open_arrays(path)) for path in sorted(folder.glob(f"*/{ORBAX}")))


def _tensors(arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].read().tobytes())
    return digest.hexdigest()


def _bytes(folder: Path, *patterns: str) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _without_times(path: Path) -> str:
    def kept(value):
        if isinstance(value, dict):
            return {key: kept(item) for key, item in value.items() if "seconds" not in key}
        return value

    return json.dumps(kept(json.loads(path.read_text())), sort_keys=True)


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
        line = [*_python(name), *command.flags(out)]
        seconds = 0.0
        for _ in range(2):  # the first compiles
            shutil.rmtree(out, ignore_errors=True)
            started = time.monotonic()
            subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
            seconds = time.monotonic() - started
        right, found = command.digest(out), Counter()
        for turn in range(flags.count):
            moment, began = draw.uniform(0.2, seconds), time.monotonic()
            outcome = interrupt(name, command, out, SIGNALS[flags.signal], moment, right)
            if outcome == "was done":  # the machine was busier when it was timed
                seconds = min(seconds, time.monotonic() - began)
            found[outcome] += 1
            if outcome not in ("clean", "was done"):
                failed = True
                print(f"{name} {turn} at {moment:.2f} s: {outcome}", flush=True)
        good = found["clean"], found["was done"], flags.count - found["clean"] - found["was done"]
        rows.append(f"| {name} | {seconds:.1f} s | " + " | ".join(map(str, good)) + " |")
        print(rows[-1], flush=True)
    print(f"\n| SIG{flags.signal.upper()} | takes | clean | was done | wrong |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
